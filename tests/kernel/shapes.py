# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations that use much of the language at once, for tests of what holds for all of it."""

from __future__ import annotations

from kernel_lab.balancer import Mapping, service, webs, weighted
from kernel_lab.topology import FRONT, OTHER_VIP, VIP, VIP6, WEB6

BOTH = [*webs("web1", "web2", port=8080), {"address": WEB6["web1"]}, {"address": WEB6["web2"], "weight": 3}]

PLAIN: list[Mapping] = [
    service(backends=weighted(web1=5, web2=3, web3=2)),
    service(
        "dual", listen=[f"{OTHER_VIP}:80", f"[{VIP6}]:80"], protocol=["tcp", "udp"], backends=BOTH, redispatch=True
    ),
    service("dns", listen=f"{VIP}:53", protocol=["tcp", "udp"], snat="none"),
    service("chance", listen=f"{VIP}:81", method="random", backends=weighted(web1=7, web2=1)),
    service("sticky", listen=f"{VIP}:82", method="source_hash", redispatch=True, snat=["10.0.0.200", "10.0.0.201"]),
    service("range", listen=f"{VIP}:9000-9003", protocol="sctp"),
    service("node", listen="*:30080", protocol=["tcp", "udp"], backends=BOTH, redispatch=True),
    service("inside", listen=f"{VIP}:83", interface="back", backends=webs("web1", "web2"), redispatch=True),
    service("local", listen=f"{FRONT}:84", backends=[{"address": FRONT, "port": 8080}]),
    service(
        "flows", listen=[f"{VIP}:8186", f"[{VIP6}]:8186"], method="flow_hash", protocol=["tcp", "udp"], backends=BOTH
    ),
    service("asked", listen=[f"{OTHER_VIP}:8187", "*:30087"], method="destination_hash"),
]
GUARDED: list[Mapping] = [
    service(
        "guarded",
        listen=[f"{VIP}:90", f"[{VIP6}]:90"],
        allow_from=["198.18.0.0/16", "203.0.113.9", "2001:db8:18::/64"],
        max_connections_per_client=5,
        new_connections_per_second=20,
        log=True,
        backends=BOTH,
    ),
    service("loyal", listen=f"{VIP}:91", affinity="3h", backends=[*webs("web1", "web2"), *webs("web3", backup=True)]),
    service(
        "carrier",
        listen=[f"{VIP}:8195", f"[{VIP6}]:8195"],
        method="source_hash",
        affinity=60,
        client_prefix={"ipv4": 24, "ipv6": 56},
        backends=BOTH,
    ),
    service(
        "pinned",
        listen=[f"{VIP}:8197", f"[{VIP6}]:8197"],
        pins=[
            {"client": "198.18.7.0/24", "backend": "web1"},
            {"client": "198.18.7.7", "backend": "web2"},
            {"client": "2001:db8:18::/64", "backend": WEB6["web1"]},
        ],
        affinity=60,
        backends=BOTH,
    ),
    service(
        "by-client",
        snat_ports="20000-29999",
        listen=[f"{VIP}:8198", f"[{VIP6}]:8198"],
        snat_by_client=[
            {"networks": ["198.18.0.0/16", "2001:db8:18::/64"], "snat": "none"},
            {"networks": ["198.18.7.0/24"], "snat": ["10.0.0.200", "10.0.0.201"]},
            {"networks": ["198.18.7.7"], "snat": "masquerade"},
            {"networks": ["2001:db8:18::7"], "snat": "2001:db8:1::200"},
        ],
        backends=[*webs("web1", snat="10.0.0.201"), *BOTH[1:]],
    ),
    service("shifted", listen=f"{VIP}:7000-7003", protocol=["tcp", "udp"], backends=webs(port="9000-9003")),
    service("networks", listen=f"{VIP}:8196", method="source_hash", client_prefix={"ipv4": 20}),
    service("empty", listen=f"{VIP}:92", backends=[]),
    service("silent", listen=f"{VIP}:93", when_empty="drop", protocol=["tcp", "udp"], backends=webs(state="drained")),
]
EGRESS: list[Mapping] = [
    {"source": "10.0.0.0/24", "protocol": "tcp", "destination_ports": [25, "8000-8010"], "snat": "192.0.2.12"},
    {"source": "10.2.0.0/24", "out_interface": "front", "snat": "192.0.2.12", "snat_ports": "20000-29999"},
    {"source": ["10.0.0.0/24", "10.1.0.0/16"], "out_interface": "front"},
    {"source": "2001:db8:2::/64"},
]
#: A service whose clients are named by `LISTS` alone, and one that has networks beside them.
LISTED: list[Mapping] = [
    service(name, listen=listens, backends=BOTH, **keys)
    for name, listens, keys in (
        (
            "naming",
            [f"{VIP}:8201", f"[{VIP6}]:8201"],
            {
                "allow_from": "office",
                "deny_from": "lost",
                "snat_by_client": [{"networks": "lost", "snat": "none"}],
                "pins": [{"client": "office", "backend": name} for name in ("web1", WEB6["web1"])],
            },
        ),
        (
            "beside",
            [f"{VIP}:8202", f"[{VIP6}]:8202"],
            {
                "deny_from": ["lost", "203.0.113.9"],
                "snat_by_client": [{"networks": ["office", "203.0.113.0/24"], "snat": "masquerade"}],
                "pins": [{"client": "198.18.0.0/16", "backend": "web2"}, {"client": "office", "backend": "web1"}],
            },
        ),
        ("shared", [f"{VIP}:8203", f"[{VIP6}]:8203"], {"allow_from": "office"}),
        ("refusing", [f"{VIP}:8204", f"[{VIP6}]:8204"], {"deny_from": "office"}),
    )
]
LISTS = {"office": ["198.18.7.0/24", "198.18.9.0/24", "2001:db8:18::/64"], "lost": "198.18.7.7\n2001:db8:18::7\n"}
OTHER_LISTS = {**LISTS, "office": "198.18.8.0/24, 198.18.9.0/24, 2001:db8:18::/64"}
ALL = [*PLAIN, *GUARDED]
#: One service changed, one gone, one new, one with another method.
CHANGED = [
    service(backends=weighted(web1=5, web2=3, web4=2)),
    *PLAIN[1:4],
    service("sticky", listen=f"{VIP}:82", method="random"),
    *PLAIN[6:],
    *GUARDED[1:],
    service("late", listen=f"{VIP}:94"),
]
