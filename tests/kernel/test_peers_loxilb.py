# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What loxilb promises for `loxicmd create lb`: ways to select an endpoint, modes of NAT, and rules of one address."""

from __future__ import annotations

from typing import Any

from kernel_lab.balancer import Balancer
from kernel_lab.peers import Case, among, check, refused, same, served
from kernel_lab.topology import BACK, CLIENT, CLIENT6, WEB

CLIENTS = [f"198.18.7.{number}" for number in range(1, 41)]
INSIDE, OUTSIDE = "198.18.7.7", "198.18.9.9"
#: --endpoints=WEB1:1,WEB2:1,WEB3:1 with a target port of 8080.
ENDPOINTS = ["WEB1:8080", "WEB2:8080", "WEB3:8080"]


def lb(listen: Any = "VIP:80", **keys: Any) -> dict[str, Any]:
    """`create lb VIP --tcp=80:8080 --endpoints=…`: without a mode endpoints see the client."""
    return {"listen": listen, "snat": "none", "backends": ENDPOINTS, **keys}


def weighted(*weights: int) -> list[dict[str, Any]]:
    return [{"address": address, "weight": weight} for address, weight in zip(ENDPOINTS, weights, strict=True)]


SELECT = [
    Case("--select=rr", [lb(method="rr")], [served("VIP:80", web1=2, web2=2, web3=2, seen=CLIENT, port=8080)]),
    Case("rr is the default", [lb()], [served("VIP:80", web1=1, web2=1, web3=1)]),
    Case(
        "--select=priority, weights 40, 40 and 20",
        [lb(backends=weighted(40, 40, 20))],
        [served("VIP:80", web1=4, web2=4, web3=2)],
    ),
    Case(
        "weights as percentages",
        [
            lb(
                backends=[
                    {"address": item, "weight": f"{part}%"} for item, part in zip(ENDPOINTS, (70, 10, 20), strict=True)
                ]
            )
        ],
        [served("VIP:80", web1=7, web2=1, web3=2)],
    ),
    Case(
        "--select=hash: connections of one client go to several endpoints",
        [lb(method="flow_hash")],
        [among("VIP:80", 40, "web1", "web2", "web3", sources=CLIENTS[:1])],
    ),
    Case(
        "--select=persist: a client stays",
        [lb(method="source_hash")],
        [same("VIP:80", 5, sources=CLIENTS[:1]), among("VIP:80", 40, "web1", "web2", "web3", sources=CLIENTS)],
    ),
    Case(
        "--select=persist, for as long as it is not idle",
        [lb(affinity="3h")],
        [same("VIP:80", 5, sources=CLIENTS[:1])],
    ),
    Case("--select=lc", [lb(method="lc")], [served("VIP:80", web1=2, web2=2, web3=2)]),
]

MODES = [
    Case(
        "the default mode over IPv6 (NAT66)",
        [lb("[VIP6]:80", backends=["[SIX1]:8080", "[SIX2]:8080"])],
        [served("[VIP6]:80", web1=1, web2=1, seen=CLIENT6, port=8080)],
    ),
    Case(
        "--mode=onearm: endpoints see an address of the balancer on their network",
        [lb(snat="masquerade")],
        [served("VIP:80", web1=1, web2=1, web3=1, seen=BACK)],
    ),
    Case(
        "--mode=fullnat: endpoints see the address of the service",
        [lb(snat="VIP")],
        [served("VIP:80", web1=1, web2=1, web3=1, seen="VIP")],
    ),
    Case(
        "--mode=fullnat --udp=53:53",
        [lb("VIP:53", snat="VIP", protocol="udp", backends=["WEB1:53", "WEB2:53"])],
        [served("VIP:53", web1=1, web2=1, seen="VIP", protocol="udp")],
    ),
    Case(
        "an endpoint as the client",
        [lb(backends=["WEB1:8080", "WEB2:8080"])],
        [served("VIP:80", web1=1, web2=1, at="web1", seen=BACK)],
    ),
    Case("the balancer as the client", [lb()], [served("VIP:80", web1=1, web2=1, web3=1, at="balancer")]),
]

RULES = [
    Case(
        "--tcp=80:8080,8080:9000: one command, two ports",
        [lb(), lb("VIP:8080", backends=["WEB1:9000", "WEB2:9000"])],
        [served("VIP:80", web1=1, web2=1, web3=1, port=8080), served("VIP:8080", web1=1, web2=1, port=9000)],
    ),
    Case(
        "--tcp=53:53 --udp=53:53",
        [lb("VIP:53", protocol="tcp,udp", backends=["WEB1:53", "WEB2:53"])],
        [served("VIP:53", web1=1, web2=1, protocol=protocol, seen=CLIENT) for protocol in ("tcp", "udp")],
    ),
    Case(
        "a range of ports",
        [lb("VIP:9000-9003", backends=["WEB1", "WEB2"])],
        [served(f"VIP:{port}", web1=1, web2=1, port=port) for port in (9000, 9003)] + [refused("VIP:9004")],
    ),
    Case(
        "--sources=198.18.7.0/24",
        [lb(allow_from="198.18.7.0/24")],
        [served("VIP:80", web1=1, web2=1, sources=[INSIDE]), refused("VIP:80", sources=[OUTSIDE])],
    ),
    Case(
        "an endpoint that --monitor has found dead",
        [lb(backends=[*ENDPOINTS[:2], {"address": ENDPOINTS[2], "state": "disabled"}])],
        [served("VIP:80", web1=2, web2=2)],
    ),
    Case("--detachEP of all", [lb(backends=[])], [refused("VIP:80")]),
    Case(
        "--inatimeout=30",
        [lb(idle_timeout=30)],
        [served("VIP:80", web1=1, web2=1, web3=1, held=True)],
        nftables=True,
    ),
    Case(
        "an egress rule: endpoints reach others as an address of the service",
        [lb()],
        [
            served(f"{OUTSIDE}:80", client=2, at="web4", seen="VIP"),
            served("VIP:80", web1=1, web2=1, web3=1, seen=CLIENT),
        ],
        [{"source": WEB["web4"], "snat": "VIP"}],
    ),
]


def test_load_balancer_rules(balancer: Balancer) -> None:
    check(balancer, [*SELECT, *MODES, *RULES])
