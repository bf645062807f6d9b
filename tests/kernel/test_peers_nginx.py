# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the stream module of nginx promises for `server` and `upstream`, as far as it is about connections."""

from __future__ import annotations

from typing import Any

from kernel_lab.balancer import Balancer
from kernel_lab.peers import Case, among, check, refused, same, served
from kernel_lab.topology import BACK, BACK6, CLIENT, FRONT, FRONT6

#: An address of the balancer on the backends' network, for `proxy_bind`.
SOURCE = "10.0.0.200"
INSIDE, BESIDE, OUTSIDE = "198.18.7.7", "198.18.7.130", "198.18.9.9"
CLIENTS = [f"198.18.7.{number}" for number in range(1, 41)]


def stream(*servers: Any, listen: Any = "VIP:80", **keys: Any) -> dict[str, Any]:
    """A `server` with its `upstream`."""
    return {"listen": listen, "backends": list(servers or ("WEB1:8080", "WEB2:8080")), **keys}


def server(number: int, **keys: Any) -> dict[str, Any]:
    return {"address": f"WEB{number}:8080", **keys}


UPSTREAM = [
    Case(
        "upstream { server WEB1:8080; server WEB2:8080; server WEB3:9000; }",
        [stream("WEB1:8080", "WEB2:8080", "WEB3:9000")],
        [served("VIP:80", web1=2, web2=2, web3=2, seen=BACK, port={"web1": 8080, "web2": 8080, "web3": 9000})],
    ),
    Case(
        "server WEB1:8080 weight=3; server WEB2:8080 weight=2; server WEB3:8080;",
        [stream(server(1, weight=3), server(2, weight=2), server(3))],
        [served("VIP:80", web1=6, web2=4, web3=2)],
    ),
    Case(
        "server WEB2:8080 weight=5, over UDP",
        [stream(server(1), server(2, weight=5), listen="VIP:53", protocol="udp")],
        [served("VIP:53", web1=2, web2=10, protocol="udp")],
    ),
    Case(
        "server WEB3:8080 backup;",
        [stream(server(1), server(2), server(3, backup=True))],
        [served("VIP:80", web1=2, web2=2)],
    ),
    Case(
        "server WEB3:8080 backup; when the others are down",
        [stream(server(1, state="down"), server(2, state="down"), server(3, backup=True), server(4, backup=True))],
        [served("VIP:80", web3=2, web4=2)],
    ),
    Case("server WEB1:8080 down;", [stream(server(1, state="down"), server(2))], [served("VIP:80", web2=4)]),
    Case(
        "server WEB1:8080 down; with hash $remote_addr consistent the others' clients stay",
        [stream(server(1, state="down"), server(2), server(3), method="source_hash")],
        [same("VIP:80", 4, sources=CLIENTS[:1]), among("VIP:80", 40, "web2", "web3", sources=CLIENTS)],
    ),
    Case("all of an upstream are down", [stream(server(1, state="down"))], [refused("VIP:80", 2)]),
    Case(
        "an upstream with servers of both families",
        [stream("WEB1:8080", "[SIX2]:8080", listen=["VIP:80", "[VIP6]:80"])],
        [served("VIP:80", web1=2, seen=BACK), served("[VIP6]:80", web2=2, seen=BACK6)],
    ),
]

MAX_CONNS = [
    Case(
        "server WEB1:8080 max_conns=1; the next one goes elsewhere",
        [stream(server(1, max_connections=1), server(2))],
        [served("VIP:80", web1=1, web2=3, held=True)],
        nftables=True,
    ),
    Case(
        "max_conns=1 of all but a backup",
        [stream(server(1, max_connections=1), server(2, max_connections=1), server(3, backup=True))],
        [served("VIP:80", web1=1, web2=1, web3=2, held=True)],
        nftables=True,
    ),
    Case(
        "max_conns=1 with hash $remote_addr consistent",
        [stream(server(1, max_connections=1), server(2, max_connections=2), method="source_hash")],
        [served("VIP:80", web1=1, web2=2, sources=[INSIDE], held=True), refused("VIP:80", sources=[INSIDE])],
        nftables=True,
    ),
]

METHODS = [
    Case("least_conn;", [stream(method="least_conn")], [served("VIP:80", web1=2, web2=2)]),
    Case(
        "least_conn; with weight=3",
        [stream(server(1, weight=3), server(2), method="least_conn")],
        [served("VIP:80", web1=6, web2=2)],
    ),
    Case("random;", [stream(method="random")], [among("VIP:80", 60, "web1", "web2")]),
    Case(
        "hash $remote_addr consistent;",
        [stream(method="source_hash")],
        [same("VIP:80", 4, sources=CLIENTS[:1]), among("VIP:80", 40, "web1", "web2", sources=CLIENTS)],
    ),
    Case(
        "hash $remote_addr$remote_port consistent;",
        [stream(method="flow_hash")],
        [among("VIP:80", 40, "web1", "web2", sources=CLIENTS[:1])],
    ),
    Case(
        "hash $server_addr;",
        [stream(listen=["VIP:80", "VIP2:80"], method="destination_hash")],
        [same("VIP:80", 8, sources=CLIENTS), same("VIP2:80", 8, sources=CLIENTS)],
    ),
    Case(
        "ip_hash: the first three numbers of an IPv4 address",
        [stream("WEB1:8080", "WEB2:8080", "WEB3:8080", method="source_hash", client_prefix={"ipv4": 24})],
        [
            same("VIP:80", 40, sources=CLIENTS),
            among("VIP:80", 60, "web1", "web2", "web3", sources=[f"198.18.{number}.7" for number in range(60)]),
        ],
    ),
]

LISTEN = [
    Case(
        "listen VIP:8000-8010; to one port",
        [stream(listen="VIP:8000-8010")],
        [served(f"VIP:{port}", web1=1, web2=1, port=8080) for port in (8000, 8005, 8010)] + [refused("VIP:7999")],
    ),
    Case(
        "listen VIP:9000-9003; proxy_pass WEB1:$server_port;",
        [stream("WEB1", listen="VIP:9000-9003")],
        [served(f"VIP:{port}", web1=1, port=port) for port in range(9000, 9004)],
    ),
    Case(
        "listen 30080; listen [::]:30080;",
        [stream("WEB1:8080", "[SIX1]:8080", listen="*:30080")],
        [served(f"{FRONT}:30080", web1=1), served(f"[{FRONT6}]:30080", web1=1), served("VIP:30080", web1=1)],
    ),
    Case(
        "listen VIP:80; listen VIP2:8080; listen [VIP6]:80;",
        [stream("WEB1:8080", "[SIX1]:8080", listen=["VIP:80", "VIP2:8080", "[VIP6]:80"])],
        [served(target, web1=1, port=8080) for target in ("VIP:80", "VIP2:8080", "[VIP6]:80")],
    ),
    Case(
        "listen VIP:53; listen VIP:53 udp;",
        [stream(listen="VIP:53", protocol=["tcp", "udp"])],
        [served("VIP:53", web1=2, web2=2, protocol=protocol) for protocol in ("tcp", "udp")],
    ),
    Case(
        "listen VIP:30081; beside listen 30081;",
        [stream("WEB1:8080", listen="*:30081"), stream("WEB2:8080", listen="VIP:30081")],
        [served("VIP:30081", web2=2), served(f"{FRONT}:30081", web1=2), served("VIP2:30081", web1=2)],
    ),
    Case(
        "two servers on one address",
        [stream("WEB1:8080"), stream("WEB2:8080", listen="VIP:443")],
        [served("VIP:80", web1=2), served("VIP:443", web2=2)],
    ),
]

PROXY = [
    Case("proxy_bind SOURCE;", [stream(snat=SOURCE)], [served("VIP:80", web1=1, web2=1, seen=SOURCE)]),
    Case(
        "proxy_bind $remote_addr transparent;", [stream(snat="none")], [served("VIP:80", web1=1, web2=1, seen=CLIENT)]
    ),
    Case(
        "proxy_next_upstream on; a server that refuses",
        [stream("WEB1:7999", "WEB2:8080", redispatch=True)],
        [served("VIP:80", web2=2)],
    ),
    Case(
        "proxy_next_upstream off; a server that refuses",
        [stream("WEB1:7999", redispatch=False)],
        [refused("VIP:80", 2)],
    ),
    Case(
        "proxy_pass to a server on the same host",
        [stream(f"{FRONT}:7000")],
        [served("VIP:80", balancer=2, port=7000)],
    ),
]

ACCESS = [
    Case(
        "geo $remote_addr $to { 198.18.0.0/16 WEB1; 198.18.7.7 WEB2; }, proxy_pass $to;",
        [
            stream(
                server(1, name="a"),
                server(2, name="b"),
                pins=[{"client": "198.18.0.0/16", "backend": "a"}, {"client": INSIDE, "backend": "b"}],
            )
        ],
        [served("VIP:80", web1=2, sources=[OUTSIDE]), served("VIP:80", web2=2, sources=[INSIDE])],
    ),
    Case(
        "deny 198.18.7.0/25; allow all;",
        [stream(deny_from="198.18.7.0/25")],
        [refused("VIP:80", sources=[INSIDE]), served("VIP:80", web1=1, web2=1, sources=[BESIDE, OUTSIDE])],
    ),
    Case(
        "allow 198.18.7.0/24; allow 2001:db8:18::/112; deny all;",
        [
            stream(
                "WEB1:8080",
                "[SIX1]:8080",
                listen=["VIP:80", "[VIP6]:80"],
                allow_from=["198.18.7.0/24", "2001:db8:18::/112"],
            )
        ],
        [
            served("VIP:80", web1=2, sources=[INSIDE, BESIDE]),
            refused("VIP:80", 2, sources=[OUTSIDE, CLIENT]),
            served("[VIP6]:80", web1=1, sources=["2001:db8:18::7"]),
            refused("[VIP6]:80", sources=["2001:db8:18::1:7"]),
        ],
    ),
    Case(
        "deny 198.18.7.7; allow 198.18.7.0/24; deny all;",
        [stream(allow_from="198.18.7.0/24", deny_from=INSIDE)],
        [refused("VIP:80", 2, sources=[INSIDE, OUTSIDE]), served("VIP:80", web1=1, web2=1, sources=[BESIDE])],
    ),
    Case(
        "deny over UDP",
        [stream(listen="VIP:53", protocol="udp", deny_from=INSIDE)],
        [refused("VIP:53", sources=[INSIDE], protocol="udp"), served("VIP:53", web1=1, protocol="udp")],
    ),
    Case(
        "limit_conn_zone $binary_remote_addr; limit_conn 2;",
        [stream(max_connections_per_client=2)],
        [
            served("VIP:80", web1=1, web2=1, sources=[INSIDE], held=True),
            refused("VIP:80", sources=[INSIDE]),
            served("VIP:80", web1=1, web2=1, sources=[OUTSIDE, BESIDE]),
        ],
    ),
]


def test_streams(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {SOURCE}/32 dev back")
    check(balancer, [*UPSTREAM, *MAX_CONNS, *METHODS, *LISTEN, *PROXY, *ACCESS], ports=[7000])
