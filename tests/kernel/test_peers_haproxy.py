# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What HAProxy promises for `listen` sections of `mode tcp`."""

from __future__ import annotations

from typing import Any

from kernel_lab.balancer import Balancer
from kernel_lab.peers import Case, among, check, refused, same, served, silent
from kernel_lab.topology import BACK, BACK6, CLIENT, CLIENT6, FRONT, FRONT6

#: An address of the balancer on the backends' network, for `source`.
SOURCE = "10.0.0.200"
INSIDE, BESIDE, OUTSIDE = "198.18.7.7", "198.18.7.130", "198.18.9.9"
CLIENTS = [f"198.18.7.{number}" for number in range(1, 41)]


def proxy(*servers: Any, listen: Any = "VIP:80", **keys: Any) -> dict[str, Any]:
    """A `listen` section."""
    return {"listen": listen, "backends": list(servers or ("WEB1:8080", "WEB2:8080")), **keys}


def server(number: int, **keys: Any) -> dict[str, Any]:
    return {"address": f"WEB{number}:8080", "name": f"s{number}", **keys}


BALANCE = [
    Case("balance roundrobin", [proxy(method="roundrobin")], [served("VIP:80", web1=2, web2=2, seen=BACK)]),
    Case(
        "balance static-rr, weight 3",
        [proxy(server(1, weight=3), server(2, weight=1), method="static-rr")],
        [served("VIP:80", web1=6, web2=2)],
    ),
    Case(
        "balance leastconn",
        [proxy(server(1, weight=2), server(2), method="leastconn")],
        [served("VIP:80", web1=4, web2=2)],
    ),
    Case("balance random(1)", [proxy(method="random")], [among("VIP:80", 60, "web1", "web2")]),
    Case(
        "balance source, hash-type consistent",
        [proxy(method="source")],
        [same("VIP:80", 4, sources=CLIENTS[:1]), among("VIP:80", 40, "web1", "web2", sources=CLIENTS)],
    ),
    Case(
        "balance hash src,ipmask(24,64)",
        [proxy(method="source_hash", client_prefix={"ipv4": 24, "ipv6": 64})],
        [
            same("VIP:80", 40, sources=CLIENTS),
            among("VIP:80", 40, "web1", "web2", sources=[f"198.18.{number}.7" for number in range(40)]),
        ],
    ),
    Case(
        "balance hash dst",
        [proxy(listen=["VIP:80", "VIP2:80"], method="destination_hash")],
        [same("VIP:80", 8, sources=CLIENTS), same("VIP2:80", 8, sources=CLIENTS)],
    ),
    Case(
        "balance first: the next one when the first is down",
        [
            proxy(server(1), server(2, backup=True)),
            proxy(server(1, state="disabled"), server(2, backup=True), listen="VIP:443"),
        ],
        [served("VIP:80", web1=4), served("VIP:443", web2=4)],
    ),
    Case(
        "stick-table type ip size 1m expire 30m, stick on src",
        [proxy(affinity="30m")],
        [same("VIP:80", 5, sources=CLIENTS[:1]), among("VIP:80", 2, "web1", "web2", sources=CLIENTS[1:3])],
    ),
    Case(
        "stick on src,ipmask(24)",
        [proxy(affinity="30m", client_prefix={"ipv4": 24})],
        [same("VIP:80", 8, sources=CLIENTS[:8])],
    ),
]

SERVERS = [
    Case(
        "server s1 WEB1:8080 weight 3; server s2 WEB2:8080 weight 0",
        [proxy(server(1, weight=3), server(2, weight=0))],
        [served("VIP:80", web1=4)],
    ),
    Case("server s2 WEB2:8080 disabled", [proxy(server(1), server(2, state="disabled"))], [served("VIP:80", web1=4)]),
    Case("set server b/s2 state maint", [proxy(server(1), server(2, state="maint"))], [served("VIP:80", web1=4)]),
    Case("set server b/s2 state drain", [proxy(server(1), server(2, state="drain"))], [served("VIP:80", web1=4)]),
    Case(
        "set server b/s2 state ready", [proxy(server(1), server(2, state="ready"))], [served("VIP:80", web1=2, web2=2)]
    ),
    Case(
        "server s3 WEB3:8080 backup",
        [proxy(server(1), server(3, backup=True))],
        [served("VIP:80", web1=4)],
    ),
    Case(
        "two with backup, and no option allbackups",
        [proxy(server(1, state="disabled"), server(3, backup=True), server(4, backup=True), backups="first")],
        [served("VIP:80", web3=4)],
    ),
    Case(
        "option allbackups",
        [proxy(server(1, state="disabled"), server(3, backup=True), server(4, backup=True))],
        [served("VIP:80", web3=2, web4=2)],
    ),
    Case("no server is available", [proxy(server(1, state="maint"))], [refused("VIP:80", 2)]),
    Case("server s1 WEB1 (no port: that of the client)", [proxy("WEB1")], [served("VIP:80", web1=2, port=80)]),
    Case(
        "server s1 [SIX1]:8080 behind an address of IPv6",
        [proxy("[SIX1]:8080", "[SIX2]:8080", listen="[VIP6]:80")],
        [served("[VIP6]:80", web1=1, web2=1, seen=BACK6, port=8080)],
    ),
    Case(
        "server s1 WEB1:+1000 behind bind VIP:8000-8003",
        [proxy({"address": "WEB1", "port": "+1000"}, {"address": "WEB2", "port": "9000-9003"}, listen="VIP:8000-8003")],
        [served(f"VIP:{port}", web1=1, web2=1, port=port + 1000) for port in (8000, 8001, 8003)],
    ),
    Case(
        "server s1 WEB1:-1000, for two ports",
        [proxy({"address": "WEB1", "port": "-1000"}, listen=["VIP:10000", "VIP:10001"])],
        [served("VIP:10000", web1=1, port=9000), served("VIP:10001", web1=1, port=9001)],
    ),
    Case(
        "server s1 WEB1:8080 maxconn 1, and a queue without room",
        [proxy(server(1, max_connections=1), server(2, max_connections=1))],
        [served("VIP:80", web1=1, web2=1, held=True), refused("VIP:80")],
        nftables=True,
    ),
    Case(
        "source SOURCE on one server",
        [proxy("WEB1:8080", {"address": "WEB2:8080", "snat": SOURCE}, snat="none")],
        [served("VIP:80", web2=1, web1=1)],
    ),
    Case(
        "source SOURCE:20000-29999",
        [proxy(snat=SOURCE, snat_ports="20000-29999")],
        [served("VIP:80", web1=1, web2=1, seen=SOURCE)],
    ),
    Case("source SOURCE", [proxy(snat=SOURCE)], [served("VIP:80", web1=1, web2=1, seen=SOURCE)]),
    Case(
        "source 0.0.0.0 usesrc clientip",
        [proxy("WEB1:8080", "[SIX1]:8080", listen=["VIP:80", "[VIP6]:80"], snat="none")],
        [served("VIP:80", web1=2, seen=CLIENT), served("[VIP6]:80", web1=2, seen=CLIENT6)],
    ),
    Case(
        "option redispatch; a server that refuses",
        [proxy("WEB1:7999", "WEB2:8080", redispatch=True)],
        [served("VIP:80", web2=2)],
    ),
]

BIND = [
    Case(
        "bind VIP:80,VIP2:8080",
        [proxy(listen="VIP:80,VIP2:8080")],
        [served(target, web1=1, web2=1, port=8080) for target in ("VIP:80", "VIP2:8080")],
    ),
    Case(
        "bind VIP:8000-8010",
        [proxy(listen="VIP:8000-8010")],
        [served(f"VIP:{port}", web1=1, web2=1, port=8080) for port in (8000, 8010)] + [refused("VIP:8011")],
    ),
    Case(
        "bind :30080, bind :::30080 v6only",
        [proxy("WEB1:8080", "[SIX1]:8080", listen="*:30080")],
        [served(f"{FRONT}:30080", web1=1), served(f"[{FRONT6}]:30080", web1=1)],
    ),
    Case(
        "bind VIP:80 interface front",
        [proxy(interface="front")],
        [served("VIP:80", web1=1, web2=1), refused("VIP:80", at="web3")],
    ),
    Case(
        "bind VIP:30081 beside bind :30081",
        [proxy("WEB1:8080", listen="*:30081"), proxy("WEB2:8080", listen="VIP:30081")],
        [served("VIP:30081", web2=2), served(f"{FRONT}:30081", web1=2)],
    ),
    Case(
        "bind VIP:80 interface front beside bind VIP:80",
        [proxy("WEB1:8080", interface="front"), proxy("WEB2:8080")],
        [served("VIP:80", web1=2), served("VIP:80", web2=2, at="web3")],
    ),
    Case(
        "bind VIP:80 interface front beside bind VIP:80 interface back",
        [proxy("WEB1:8080", interface="front"), proxy("WEB2:8080", interface="back")],
        [served("VIP:80", web1=2), served("VIP:80", web2=2, at="web3")],
    ),
]

RULES = [
    Case(
        "acl internal src 198.18.7.0/24; tcp-request connection reject unless internal",
        [proxy(allow_from="198.18.7.0/24")],
        [served("VIP:80", web1=1, web2=1, sources=[INSIDE, BESIDE]), refused("VIP:80", sources=[OUTSIDE])],
    ),
    Case(
        "tcp-request connection reject if { src 198.18.7.0/25 }",
        [proxy(deny_from="198.18.7.0/25")],
        [refused("VIP:80", sources=[INSIDE]), served("VIP:80", web1=1, web2=1, sources=[BESIDE, OUTSIDE])],
    ),
    Case(
        "tcp-request connection accept if { src INSIDE }; tcp-request connection reject if { src 198.18.7.0/24 }",
        [proxy(allow_from=["0.0.0.0/0", INSIDE], deny_from="198.18.7.0/24")],
        [served("VIP:80", web1=1, web2=1, sources=[INSIDE, OUTSIDE]), refused("VIP:80", sources=[BESIDE])],
    ),
    Case(
        "tcp-request connection silent-drop if { src 2001:db8:18::/112 }",
        [proxy("[SIX1]:8080", listen="[VIP6]:80", deny_from="2001:db8:18::/112", when_denied="drop")],
        [
            silent("[VIP6]:80", sources=["2001:db8:18::7"]),
            served("[VIP6]:80", web1=1, sources=["2001:db8:18::1:7"]),
        ],
    ),
    Case(
        "use-server s2 if { src 198.18.7.0/24 }",
        [proxy(server(1), server(2), server(3), pins=[{"client": "198.18.7.0/24", "backend": "s2"}])],
        [served("VIP:80", web2=4, sources=CLIENTS), among("VIP:80", 9, "web1", "web2", "web3", sources=[OUTSIDE])],
    ),
    Case(
        "use-server s2, while s2 is in maintenance",
        [proxy(server(1), server(2, state="maint"), pins=[{"client": "198.18.7.0/24", "backend": "s2"}])],
        [served("VIP:80", web1=4, sources=CLIENTS)],
    ),
    Case(
        "tcp-request connection reject if { src_conn_cur ge 3 }",
        [proxy(max_connections_per_client=3)],
        [
            served("VIP:80", web1=2, web2=1, sources=[INSIDE], held=True),
            refused("VIP:80", sources=[INSIDE]),
            served("VIP:80", web1=1, web2=1, sources=[OUTSIDE, BESIDE]),
        ],
    ),
]


def test_listen_sections(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {SOURCE}/32 dev back")
    check(balancer, [*BALANCE, *SERVERS, *BIND, *RULES])
