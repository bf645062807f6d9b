# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Seesaw promises for entries of virtual servers with `mode: NAT`, by the words of its `config.proto`.

The checks of Seesaw say which backends are healthy; here their states say it.
"""

from __future__ import annotations

from typing import Any

from kernel_lab.balancer import Balancer
from kernel_lab.peers import Case, among, check, refused, same, served
from kernel_lab.topology import BACK, CLIENT, CLIENT6

BACKENDS = ["WEB1", "WEB2", "WEB3"]
CLIENTS = [f"198.18.7.{number}" for number in range(1, 41)]


def entry(listen: Any = "VIP:80", **keys: Any) -> dict[str, Any]:
    """`vserver_entry < protocol: TCP, port: 80, mode: NAT >`: backends have the same port, and see the client."""
    return {"listen": listen, "snat": "none", "backends": BACKENDS, **keys}


def checked(*healthy: bool, **keys: Any) -> dict[str, Any]:
    """As many backends, and whether each is healthy."""
    states = [
        {"address": address, "state": "active" if well else "disabled"}
        for address, well in zip(BACKENDS, healthy, strict=True)
    ]
    return entry(backends=states, health={"type": "tcp"}, **keys)


SCHEDULERS = [
    Case("scheduler: RR", [entry(method="RR")], [served("VIP:80", web1=2, web2=2, web3=2, seen=CLIENT, port=80)]),
    Case(
        "scheduler: WRR, weights 3, 2 and the default",
        [entry(method="WRR", backends=[{"address": "WEB1", "weight": 3}, {"address": "WEB2", "weight": 2}, "WEB3"])],
        [served("VIP:80", web1=6, web2=4, web3=2)],
    ),
    Case("scheduler: LC", [entry(method="LC")], [served("VIP:80", web1=1, web2=1, web3=1)]),
    Case("scheduler: WLC, the default", [entry(method="WLC")], [served("VIP:80", web1=1, web2=1, web3=1)]),
    Case(
        "scheduler: SH",
        [entry(method="SH")],
        [same("VIP:80", 5, sources=CLIENTS[:1]), among("VIP:80", 40, "web1", "web2", "web3", sources=CLIENTS)],
    ),
    Case("scheduler: MH", [entry(method="MH")], [same("VIP:80", 5, sources=CLIENTS[:1])]),
]

ENTRIES = [
    Case(
        "entry_address with ipv4 and ipv6",
        [entry(["VIP:80", "[VIP6]:80"], backends=["WEB1", "SIX2"])],
        [served("VIP:80", web1=2, seen=CLIENT), served("[VIP6]:80", web2=2, seen=CLIENT6)],
    ),
    Case(
        "two entries of one virtual server",
        [entry(method="RR"), entry("VIP:53", protocol="UDP", method="RR")],
        [
            served("VIP:80", web1=1, web2=1, web3=1),
            served("VIP:53", web1=1, web2=1, web3=1, protocol="udp", seen=CLIENT),
        ],
    ),
    Case(
        "use_fwm: the entries of a virtual server are one service",
        [entry(["VIP:80", "VIP:8080"], affinity=300)],
        [same(target, 3, sources=CLIENTS[:1]) for target in ("VIP:80", "VIP:8080")],
    ),
    Case("persistence: 300", [entry(affinity=300)], [same("VIP:80", 5, sources=CLIENTS[:1])]),
    Case(
        "a client in the network of the backends, which IPVS cannot serve with NAT",
        [entry(backends=["WEB1", "WEB2"])],
        [served("VIP:80", web1=1, web2=1, at="web1", seen=BACK)],
    ),
    Case("weight: 0", [entry(backends=["WEB1", {"address": "WEB2", "weight": 0}])], [served("VIP:80", web1=2)]),
    Case(
        "uthreshold: 1",
        [entry(backends=[{"address": "WEB1", "max_connections": 1}, {"address": "WEB2", "max_connections": 1}])],
        [served("VIP:80", web1=1, web2=1, held=True)],
        nftables=True,
    ),
    Case("a backend of status DISABLED", [entry(backends=BACKENDS[:2])], [served("VIP:80", web1=1, web2=1)]),
    Case("a virtual server that is disabled", [entry(backends=[])], [refused("VIP:80")]),
]

WATERMARKS = [
    Case("no watermark: one healthy backend is enough", [checked(True, False, False)], [served("VIP:80", web1=2)]),
    Case(
        "server_low_watermark: 0.5, and two of three are healthy",
        [checked(True, True, False, min_healthy="50%")],
        [served("VIP:80", web1=1, web2=1)],
    ),
    Case(
        "server_low_watermark: 0.5, and one of three is healthy",
        [checked(True, False, False, min_healthy="50%")],
        [refused("VIP:80")],
    ),
    Case(
        "server_low_watermark: 0.3, server_high_watermark: 1.0, and all are healthy",
        [checked(True, True, True, min_healthy="30%", min_healthy_again="100%")],
        [served("VIP:80", web1=1, web2=1, web3=1)],
    ),
    Case("all backends fail", [checked(False, False, False)], [refused("VIP:80")]),
]


def test_virtual_servers(balancer: Balancer) -> None:
    check(balancer, [*SCHEDULERS, *ENTRIES, *WATERMARKS])
