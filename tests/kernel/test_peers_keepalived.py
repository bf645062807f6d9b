# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keepalived promises for virtual servers of `lb_kind NAT`, and IPVS below it."""

from __future__ import annotations

from typing import Any

from kernel_lab.balancer import Balancer
from kernel_lab.peers import Case, among, check, refused, same, served
from kernel_lab.topology import BACK, CLIENT, CLIENT6

REAL = ["WEB1:80", "WEB2:80", "WEB3:80"]
WEIGHTED = [{"address": "WEB1:80", "weight": 3}, {"address": "WEB2:80", "weight": 2}, {"address": "WEB3:80"}]
CLIENTS = [f"198.18.7.{number}" for number in range(1, 41)]


def nat(listen: str | list[str] = "VIP:80", **keys: Any) -> dict[str, Any]:
    """A virtual server as IPVS translates it: real servers see the client."""
    return {"listen": listen, "snat": "none", "backends": REAL, **keys}


ALGORITHMS = [
    Case("lb_algo rr", [nat(method="rr")], [served("VIP:80", web1=2, web2=2, web3=2, seen=CLIENT)]),
    Case("lb_algo wrr", [nat(method="wrr", backends=WEIGHTED)], [served("VIP:80", web1=6, web2=4, web3=2)]),
    Case("lb_algo lc", [nat(method="lc")], [served("VIP:80", web1=2, web2=2, web3=2)]),
    Case("lb_algo wlc", [nat(method="wlc", backends=WEIGHTED)], [served("VIP:80", web1=3, web2=2, web3=1)]),
    Case(
        "lb_algo sh",
        [nat(method="sh")],
        [same("VIP:80", 5, sources=CLIENTS[:1]), among("VIP:80", 40, "web1", "web2", "web3", sources=CLIENTS)],
    ),
    Case(
        "lb_algo dh",
        [nat(["VIP:80", "VIP2:80"], method="dh")],
        [same(target, 8, sources=CLIENTS) for target in ("VIP:80", "VIP2:80")],
    ),
    Case(
        "lb_algo mh, lb_kind NAT over IPv6",
        [nat("[VIP6]:80", method="mh", backends=["SIX1", "SIX2"])],
        [same("[VIP6]:80", 5, seen=CLIENT6)],
    ),
]

SERVERS = [
    Case(
        "lb_kind NAT; real_server with a port of its own",
        [nat(backends=["WEB1:8080", "WEB2:9000"])],
        [served("VIP:80", web1=2, web2=2, seen=CLIENT, port={"web1": 8080, "web2": 9000})],
    ),
    Case(
        "a client in the network of the real servers, which IPVS cannot serve with lb_kind NAT",
        [nat(backends=["WEB1:80", "WEB2:80"])],
        [served("VIP:80", web1=2, web2=2, at="web1", seen=BACK)],
    ),
    Case(
        "ipvsadm -M with a rule that masquerades what leaves for the real servers",
        [nat(snat="masquerade")],
        [served("VIP:80", web1=1, web2=1, web3=1, seen=BACK)],
    ),
    Case(
        "virtual_server fwmark, with a rule that marks a network",
        [nat("203.0.113.0/24:80-81", name="far"), nat(backends=["WEB4:80"])],
        [served("203.0.113.7:80", web1=2, web2=2, web3=2, seen=CLIENT), served("VIP:80", web4=2)],
    ),
    Case(
        "protocol UDP",
        [nat("VIP:53", protocol="UDP", method="rr", backends=["WEB1:53", "WEB2:53"])],
        [served("VIP:53", web1=2, web2=2, protocol="udp", seen=CLIENT), refused("VIP:53")],
    ),
    Case(
        "weight 0: no new connections",
        [nat(backends=["WEB1:80", {"address": "WEB2:80", "weight": 0}])],
        [served("VIP:80", web1=4)],
    ),
    Case(
        "inhibit_on_failure, and the check of WEB2 fails: weight 0 instead of removal",
        [nat(backends=["WEB1:80", {"address": "WEB2:80", "state": "drained"}])],
        [served("VIP:80", web1=4)],
    ),
    Case(
        "sorry_server WEB4 8080, while real servers are alive",
        [nat(backends=[*REAL, {"address": "WEB4:8080", "backup": True}])],
        [served("VIP:80", web1=2, web2=2, web3=2)],
    ),
    Case(
        "sorry_server WEB4 8080, when all real servers are down",
        [nat(backends=[{"address": "WEB1:80", "state": "disabled"}, {"address": "WEB4:8080", "backup": True}])],
        [served("VIP:80", web4=3, port=8080)],
    ),
    Case(
        "uthreshold 2, then the sorry_server",
        [nat(backends=[{"address": "WEB1:80", "max_connections": 2}, {"address": "WEB4:8080", "backup": True}])],
        [served("VIP:80", web1=2, web4=1, held=True)],
        nftables=True,
    ),
    Case("no real server is alive, and no sorry_server", [nat(backends=[])], [refused("VIP:80")]),
]


def real(*states: str, **keys: Any) -> dict[str, Any]:
    """As many real servers, in these states, and a sorry server. The checks of keepalived say the states there."""
    servers = [{"address": server, "state": state} for server, state in zip(REAL, states, strict=True)]
    return nat(backends=[*servers, {"address": "WEB4:8080", "backup": True}], health={"type": "tcp"}, **keys)


QUORUM = [
    Case("quorum 1 is the default", [real("active", "disabled", "disabled")], [served("VIP:80", web1=3)]),
    Case(
        "quorum 2, and as many are alive",
        [real("active", "active", "disabled", min_healthy=2)],
        [served("VIP:80", web1=2, web2=2)],
    ),
    Case(
        "quorum 2 is lost: the sorry_server, and no real server that is alive",
        [real("active", "disabled", "disabled", min_healthy=2)],
        [served("VIP:80", web4=3, port=8080)],
    ),
    Case(
        "quorum 3, and one of inhibit_on_failure has weight 0",
        [real("active", "active", "drained", min_healthy=3)],
        [served("VIP:80", web4=2, port=8080)],
    ),
    Case(
        "quorum 2 is lost, and there is no sorry_server: the rest goes on",
        [
            nat(
                backends=["WEB1:80", {"address": "WEB2:80", "state": "disabled"}],
                health={"type": "tcp", "fail_open": True},
                min_healthy=2,
            )
        ],
        [served("VIP:80", web1=2)],
    ),
    Case(
        "low_watermark 0.7 of Seesaw, and two thirds are healthy",
        [
            nat(backends=["WEB1:80", "WEB2:80", {"address": "WEB3:80", "state": "disabled"}], health={"type": "tcp"})
            | {"min_healthy": "70%"}
        ],
        [refused("VIP:80")],
    ),
]

PERSISTENCE = [
    Case(
        "persistence_timeout 300",
        [nat(affinity=300)],
        [same("VIP:80", 5, sources=CLIENTS[:1]), among("VIP:80", 3, "web1", "web2", "web3", sources=CLIENTS[1:4])],
    ),
    Case(
        "persistence_timeout 300 over IPv6",
        [nat("[VIP6]:80", affinity="5m", backends=["SIX1", "SIX2"])],
        [same("[VIP6]:80", 5, sources=["2001:db8:18::7"])],
    ),
    Case(
        "persistence_timeout 300, persistence_granularity 255.255.255.0",
        [nat(affinity=300, client_prefix={"ipv4": 24})],
        [
            same("VIP:80", 6, sources=CLIENTS[:6]),
            among("VIP:80", 3, "web1", "web2", "web3", sources=["198.18.7.9", "198.18.8.9", "198.18.9.9"]),
        ],
    ),
    Case(
        "persistence_granularity 64 over IPv6",
        [nat("[VIP6]:80", affinity=300, client_prefix={"ipv6": 64}, backends=["SIX1", "SIX2"])],
        [same("[VIP6]:80", 6, sources=["2001:db8:18::7", "2001:db8:18::1:7"])],
    ),
    Case(
        "virtual_server VIP 0 (all ports) with persistence_timeout",
        [nat("VIP:1-65535", affinity=300, backends=["WEB1", "WEB2"])],
        [
            same("VIP:8080", 3, sources=CLIENTS[:1], port=8080),
            same("VIP:9002", 3, sources=CLIENTS[:1], port=9002),
        ],
    ),
]

GROUPS = [
    Case(
        "virtual_server_group { VIP 80, VIP 8080, VIP2 80 }",
        [nat(["VIP:80", "VIP:8080", "VIP2:80"], backends=["WEB1:80", "WEB2:80"])],
        [served(target, web1=1, web2=1, port=80) for target in ("VIP:80", "VIP:8080", "VIP2:80")],
    ),
    Case(
        "virtual_server_group { VIP 9000-9003 }",
        [nat("VIP:9000-9003", backends=["WEB1", "WEB2"])],
        [served(f"VIP:{port}", web1=1, web2=1, port=port) for port in (9000, 9003)] + [refused("VIP:9004")],
    ),
    Case(
        "virtual_server_group of both families",
        [nat(["VIP:80", "[VIP6]:80"], backends=["WEB1:80", "[SIX2]:80"])],
        [served("VIP:80", web1=2, seen=CLIENT), served("[VIP6]:80", web2=2, seen=CLIENT6)],
    ),
    Case(
        "virtual_server VIP 80 beside virtual_server VIP 0",
        [nat("VIP:1-65535", backends=["WEB1"]), nat("VIP:80", backends=["WEB2:8080"])],
        [served("VIP:80", web2=2, port=8080), served("VIP:9001", web1=2, port=9001)],
    ),
    Case(
        "two virtual servers, TCP and UDP, on one address and port",
        [nat("VIP:53", backends=["WEB1:53"]), nat("VIP:53", protocol="udp", backends=["WEB2:53"])],
        [served("VIP:53", web1=2), served("VIP:53", web2=2, protocol="udp")],
    ),
]


def test_virtual_servers(balancer: Balancer) -> None:
    check(balancer, [*ALGORITHMS, *SERVERS, *QUORUM, *PERSISTENCE, *GROUPS])
