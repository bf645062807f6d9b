# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nftlb promises for farms of the modes snat and dnat, their schedulers, backends and policies."""

from __future__ import annotations

from typing import Any

from kernel_lab.balancer import Balancer
from kernel_lab.peers import Case, among, check, refused, same, served, silent
from kernel_lab.topology import BACK, BACK6, CLIENT, CLIENT6

FARM = ["WEB1:8080", "WEB2:8080"]
#: An address of the balancer on the backends' network, for "source-addr".
SOURCE, ANOTHER = "10.0.0.200", "10.0.0.201"
INSIDE, BESIDE, OUTSIDE = "198.18.7.7", "198.18.7.130", "198.18.9.9"
CLIENTS = [f"198.18.7.{number}" for number in range(1, 41)]


def farm(*backends: Any, listen: Any = "VIP:80", **keys: Any) -> dict[str, Any]:
    """A farm of mode snat unless the keys say otherwise."""
    return {"listen": listen, "backends": list(backends or FARM), **keys}


def bck(number: int, **keys: Any) -> dict[str, Any]:
    return {"address": f"WEB{number}:8080", **keys}


MARKED = [
    Case(
        '"mark": "0x1" of a farm',
        [farm(mark="0x1/0xff")],
        [served("VIP:80", web1=2, web2=2, seen=BACK, port=8080)],
    ),
    Case(
        '"mark" of every backend, "mode": "dnat"',
        [farm(bck(1, mark="0x100/0xf00"), bck(2, mark="0x200/0xf00"), mark="0x1/0xff", snat="none")],
        [served("VIP:80", web1=2, web2=2, seen=CLIENT)],
    ),
    Case(
        '"mark" of a backend, over UDP and IPv6',
        [farm({"address": "SIX1", "mark": "0x1"}, listen="[VIP6]:53", protocol="udp")],
        [served("[VIP6]:53", web1=2, protocol="udp", seen=BACK6)],
    ),
]

FARMS = [
    Case('"mode": "snat"', [farm()], [served("VIP:80", web1=2, web2=2, seen=BACK, port=8080)]),
    Case('"mode": "dnat"', [farm(snat="none")], [served("VIP:80", web1=2, web2=2, seen=CLIENT, port=8080)]),
    Case('"mode": "snat", "source-addr"', [farm(snat=SOURCE)], [served("VIP:80", web1=2, web2=2, seen=SOURCE)]),
    Case(
        '"source-addr" of a backend',
        [farm(bck(1, snat=SOURCE), bck(2))],
        [served("VIP:80", web1=2, web2=2, port=8080)],
    ),
    Case(
        '"source-addr" of every backend, and another one of the farm',
        [farm(bck(1, snat=SOURCE), bck(2, snat=SOURCE), snat=ANOTHER)],
        [served("VIP:80", web1=2, web2=2, seen=SOURCE)],
    ),
    Case(
        '"mode": "dnat" with "source-addr" of the one backend',
        [farm(bck(1, snat=SOURCE), snat="none")],
        [served("VIP:80", web1=2, seen=SOURCE)],
    ),
    Case(
        '"family": "ipv6", "mode": "snat"',
        [farm("[SIX1]:8080", "[SIX2]:8080", listen="[VIP6]:80")],
        [served("[VIP6]:80", web1=2, web2=2, seen=BACK6)],
    ),
    Case(
        '"family": "ipv6", "mode": "dnat"',
        [farm("[SIX1]:8080", listen="[VIP6]:80", snat="none")],
        [served("[VIP6]:80", web1=2, seen=CLIENT6)],
    ),
    Case(
        '"family": "dual"',
        [farm(*FARM, "[SIX3]:8080", listen=["VIP:80", "[VIP6]:80"])],
        [served("VIP:80", web1=2, web2=2), served("[VIP6]:80", web3=2)],
    ),
    Case(
        '"protocol": "udp", "mode": "dnat"',
        [farm(listen="VIP:53", protocol="udp", snat="none")],
        [served("VIP:53", web1=2, web2=2, protocol="udp", seen=CLIENT), refused("VIP:53")],
    ),
    Case(
        '"protocol": "all"',
        [farm(listen="VIP:53", protocol=["tcp", "udp", "sctp"])],
        [served("VIP:53", web1=2, web2=2, protocol=protocol) for protocol in ("tcp", "udp")],
    ),
    Case(
        '"virtual-ports": "80,8080,9000-9002", backends without "port"',
        [farm("WEB1", "WEB2", listen=["VIP:80", "VIP:8080", "VIP:9000-9002"])],
        [served(f"VIP:{port}", web1=1, web2=1, port=port) for port in (80, 8080, 9000, 9002)],
    ),
    Case(
        '"virtual-ports": "8000-8010", backends of one "port"',
        [farm(listen="VIP:8000-8010")],
        [served("VIP:8000", web1=1, web2=1, port=8080), served("VIP:8010", web1=1, web2=1), refused("VIP:8011")],
    ),
    Case(
        '"virtual-ports": "" (all)',
        [farm("WEB1", listen="VIP:1-65535")],
        [served("VIP:80", web1=1, port=80), served("VIP:9003", web1=1, port=9003)],
    ),
    Case(
        '"addresses": two of them for one farm',
        [farm(listen=["VIP:80", "VIP2:8080"])],
        [served("VIP:80", web1=1, web2=1), served("VIP2:8080", web1=1, web2=1)],
    ),
    Case(
        '"intra-connect": "on"',
        [farm()],
        [served("VIP:80", web1=2, web2=2, at="balancer")],
    ),
    Case('"log": "input"', [farm(log=True)], [served("VIP:80", web1=2, web2=2)]),
    Case('"state": "down" of a farm without backends', [farm(listen="VIP:80") | {"backends": []}], [refused("VIP:80")]),
]

SCHEDULERS = [
    Case('"scheduler": "rr"', [farm(method="rr")], [served("VIP:80", web1=3, web2=3)]),
    Case(
        '"scheduler": "weight"',
        [farm(bck(1, weight=5), bck(2, weight=2), bck(3), method="random")],
        [among("VIP:80", 160, "web1", "web2", "web3")],
    ),
    Case(
        '"scheduler": "weight", in exact turns',
        [farm(bck(1, weight=5), bck(2, weight=2), bck(3))],
        [served("VIP:80", web1=10, web2=4, web3=2)],
    ),
    Case(
        '"scheduler": "hash", "sched-param": "srcip"',
        [farm(method="source_hash")],
        [same("VIP:80", 5, sources=CLIENTS[:1]), among("VIP:80", 40, "web1", "web2", sources=CLIENTS)],
    ),
    Case(
        '"scheduler": "hash", "sched-param": "srcip" over UDP',
        [farm(listen="VIP:53", protocol="udp", method="source_hash")],
        [same("VIP:53", 5, sources=CLIENTS[:1], protocol="udp")],
    ),
    Case(
        '"scheduler": "hash", "sched-param": "srcip srcport"',
        [farm(method="flow_hash")],
        [among("VIP:80", 40, "web1", "web2", sources=CLIENTS[:1])],
    ),
    Case(
        '"scheduler": "hash", "sched-param": "dstip"',
        [farm(listen=["VIP:80", "VIP2:80"], method="destination_hash")],
        [same(target, 8, sources=CLIENTS) for target in ("VIP:80", "VIP2:80")],
    ),
    Case(
        '"persistence": "srcip", "persist-ttl": "125"',
        [farm(affinity=125)],
        [same("VIP:80", 5, sources=CLIENTS[:1]), among("VIP:80", 2, "web1", "web2", sources=CLIENTS[1:3])],
    ),
]

SESSIONS = [
    Case(
        '"sessions": [{"client": "198.18.7.7", "backend": "bck2"}]',
        [
            farm(
                bck(1, name="bck1"),
                bck(2, name="bck2"),
                affinity=60,
                pins=[{"client": INSIDE, "backend": "bck2"}],
            )
        ],
        [served("VIP:80", web2=4, sources=[INSIDE]), among("VIP:80", 4, "web1", "web2", sources=[BESIDE, OUTSIDE])],
    ),
    Case(
        "a static session to a backend that is down",
        [farm(bck(1, name="bck1"), bck(2, name="bck2", state="down"), pins=[{"client": INSIDE, "backend": "bck2"}])],
        [served("VIP:80", web1=2, sources=[INSIDE])],
    ),
]

STATES = [
    Case(
        '"state": "off": the farm does not know it',
        [farm(bck(1), bck(2, state="disabled"))],
        [served("VIP:80", web1=4)],
    ),
    Case('"state": "down"', [farm(bck(1), bck(2, state="down"), bck(3))], [served("VIP:80", web1=2, web3=2)]),
    Case('"state": "config_error"', [farm(bck(1, state="disabled"), bck(2))], [served("VIP:80", web2=4)]),
    Case('"state": "available"', [farm(bck(1), bck(2, state="drained"))], [served("VIP:80", web1=4)]),
    Case(
        'all are "down"',
        [farm(bck(1, state="down"), bck(2, state="down"))],
        [refused("VIP:80"), refused("VIP:80", at="web3")],
    ),
    Case(
        'all are "down", and the farm drops',
        [farm(bck(1, state="down"), when_empty="drop")],
        [silent("VIP:80")],
    ),
    Case(
        '"priority": "2" of a backend waits',
        [farm(bck(1), bck(2), bck(3, backup=True))],
        [served("VIP:80", web1=2, web2=2)],
    ),
    Case(
        '"priority": "2" serves when those of "1" are down',
        [farm(bck(1, state="down"), bck(2, state="down"), bck(3, backup=True), bck(4, backup=True))],
        [served("VIP:80", web3=2, web4=2)],
    ),
    Case(
        '"priority": "2", weighted among themselves',
        [farm(bck(1, state="disabled"), bck(3, backup=True, weight=3), bck(4, backup=True))],
        [served("VIP:80", web3=6, web4=2)],
    ),
    Case(
        'one with "priority": "2" joins for one that is "down"',
        [farm(bck(1, state="down"), bck(2), bck(3, backup=True), bck(4, backup=True), backups="one_for_one")],
        [served("VIP:80", web2=2, web3=2)],
    ),
    Case(
        'one with "priority": "2" is "down" as well, and that with "3" joins',
        [
            farm(
                bck(1, state="down"),
                bck(2),
                bck(3, backup=True, state="down"),
                bck(4, backup=True),
                backups="one_for_one",
            )
        ],
        [served("VIP:80", web2=2, web4=2)],
    ),
    Case(
        'both with "priority": "2" join for one that is "down"',
        [
            farm(
                bck(1, state="down"),
                bck(2),
                bck(3, backup=True, priority=2),
                bck(4, backup=True, priority=2),
                backups="one_for_one",
            )
        ],
        [served("VIP:80", web2=2, web3=2, web4=2)],
    ),
    Case(
        'one of both with "priority": "2" is "down" as well, and that with "3" joins',
        [
            farm(
                bck(1, state="down"),
                bck(2, backup=True, priority=2, state="down"),
                bck(3, backup=True, priority=2),
                bck(4, backup=True, priority=3),
                backups="one_for_one",
            )
        ],
        [served("VIP:80", web3=2, web4=2)],
    ),
    Case(
        '"priority": "2" and itself "down"',
        [farm(bck(1, state="down"), bck(2, backup=True, state="down"), bck(3, backup=True))],
        [served("VIP:80", web3=3)],
    ),
]

POLICIES = [
    Case(
        '"type": "blacklist"',
        [farm(deny_from=["198.18.7.0/24", "203.0.113.66"], when_denied="drop")],
        [silent("VIP:80", sources=[INSIDE]), served("VIP:80", web1=1, web2=1, sources=[OUTSIDE])],
    ),
    Case(
        '"type": "blacklist", "family": "ipv6"',
        [farm("[SIX1]:8080", listen="[VIP6]:80", deny_from="2001:db8:18::7", when_denied="drop")],
        [silent("[VIP6]:80", sources=["2001:db8:18::7"]), served("[VIP6]:80", web1=1, sources=["2001:db8:18::8"])],
    ),
    Case(
        '"type": "whitelist" before a "blacklist"',
        [farm(allow_from=["0.0.0.0/0", INSIDE], deny_from="198.18.7.0/24")],
        [
            served("VIP:80", web1=1, web2=1, sources=[INSIDE, OUTSIDE]),
            refused("VIP:80", sources=[BESIDE]),
        ],
    ),
    Case(
        '"type": "whitelist" alone, all others dropped',
        [farm(allow_from="198.18.7.0/24", when_denied="drop", protocol="tcp,udp")],
        [
            served("VIP:80", web1=1, web2=1, sources=[INSIDE, BESIDE]),
            served("VIP:80", web1=1, web2=1, sources=[INSIDE, BESIDE], protocol="udp"),
            silent("VIP:80", sources=[OUTSIDE]),
            silent("VIP:80", sources=[OUTSIDE], protocol="udp"),
        ],
    ),
    Case(
        '"est-connlimit": "1" of a backend',
        [farm(bck(1, max_connections=1), bck(2), listen="VIP:53", protocol="udp")],
        [served("VIP:53", web1=1, web2=2, protocol="udp", held=True)],
        nftables=True,
    ),
    Case(
        '"est-connlimit" of a client',
        [farm(max_connections_per_client=3)],
        [
            served("VIP:80", web1=2, web2=1, sources=[INSIDE], held=True),
            refused("VIP:80", sources=[INSIDE]),
            served("VIP:80", web1=1, web2=1, sources=[OUTSIDE, BESIDE]),
        ],
    ),
]


def test_farms(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {SOURCE}/32 dev back")
    check(balancer, [*FARMS, *MARKED, *SCHEDULERS, *SESSIONS, *STATES, *POLICIES])
