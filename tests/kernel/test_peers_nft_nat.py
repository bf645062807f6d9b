# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel's own test of NAT (nft_nat.sh) asks for, where it is about DNAT and SNAT of connections.

Port shadowing is asked in `test_egress.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from kernel_lab.balancer import Balancer, service
from kernel_lab.peers import Case, check, served
from kernel_lab.topology import BACK, BACK6, CLIENT, FRONT, FRONT6, OTHER_VIP, VIP, WEB, WEB6

LAN, LAN6 = "10.0.0.0/24", "2001:db8:2::/64"
INTERNET = "198.18.9.9"
#: An address of the router on the network behind it.
SOURCE = "10.0.0.200"
#: Of the client, for two flows at a time.
PORT = 40600
V6 = WEB6["web2"]


def dnat(listen: Any, to: str, **keys: Any) -> dict[str, Any]:
    """`dnat to ADDRESS` in prerouting and output."""
    return {"listen": listen, "snat": "none", "backends": [to], **keys}


LOCAL = [
    Case(
        "local dnat: to another host than the router has asked for",
        [dnat("WEB1:80", "WEB2")],
        [served("WEB1:80", web2=2, at="balancer", seen=BACK), served("WEB1:80", web2=1)],
    ),
    Case(
        "local dnat over IPv6, and UDP",
        [dnat("[SIX1]:53", "SIX2", protocol="tcp,udp")],
        [served("[SIX1]:53", web2=2, at="balancer", seen=BACK6, protocol=protocol) for protocol in ("tcp", "udp")],
    ),
    Case(
        "snat of what the router itself sends",
        [dnat("VIP:80", "WEB1", snat_by_client=[{"networks": ["VIP", FRONT], "snat": SOURCE}])],
        [served("VIP:80", web1=2, at="balancer", seen=SOURCE), served("VIP:80", web1=1, seen=CLIENT)],
    ),
    Case("a port beside it is not translated", [], [served("WEB1:8080", web1=1, at="balancer", seen=BACK)]),
]

#: Without fully-random: see services.md for that.
MASQUERADE = [
    Case(
        "masquerade: the other end sees the router",
        [],
        [
            served(f"{INTERNET}:80", client=2, at="web1", seen=FRONT),
            served(f"{INTERNET}:53", client=2, at="web1", seen=FRONT, protocol="udp"),
            served("[2001:db8:18::7]:80", client=2, at="web1", seen=FRONT6),
        ],
        [{"source": [LAN, LAN6], "out_interface": "front"}],
    ),
]

REDIRECT = [
    Case(
        "redirect: to the router itself",
        [dnat(f"{INTERNET}:80", f"{FRONT}:7000"), dnat("[2001:db8:18::9]:80", f"[{FRONT6}]:7000")],
        [
            served(f"{INTERNET}:80", balancer=2, at="web2", port=7000, seen=WEB["web2"]),
            served("[2001:db8:18::9]:80", balancer=1, at="web2", port=7000, sources=[V6], seen=V6),
        ],
    ),
]


def test_local_dnat_and_redirect(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {SOURCE}/32 dev back")
    check(balancer, [*LOCAL, *REDIRECT], ports=[7000])


def test_masquerade(balancer: Balancer) -> None:
    check(balancer, MASQUERADE)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_flows_that_would_clash(balancer: Balancer, protocol: str) -> None:
    """From one port of a client to two frontends of one backend: behind the translation both would be the same flow, so
    the second one gets another source port."""
    balancer.apply(
        [
            service(name, listen=f"{vip}:80", protocol=protocol, snat="none", backends=[WEB["web1"]])
            for name, vip in (("one", VIP), ("two", OTHER_VIP))
        ]
    )
    targets = [f"{vip}:80" for vip in (VIP, OTHER_VIP)]
    held = [balancer.hold(target, protocol=protocol, source_port=PORT)[0] for target in targets]
    assert [(answer.name, answer.peer) for _handle, answer in held] == [("web1", CLIENT)] * 2
    ports = [answer.peer_port for _handle, answer in held]
    assert ports[0] == PORT != ports[1]
    assert [balancer.talk(handle).peer_port for handle, _answer in held] == ports
