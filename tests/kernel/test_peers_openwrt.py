# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What OpenWrt's firewall promises for redirects, NAT rules and masquerading, and so plain rules of DNAT and SNAT."""

from __future__ import annotations

from typing import Any

from kernel_lab.balancer import Balancer
from kernel_lab.peers import Case, check, refused, served, silent
from kernel_lab.topology import BACK, CLIENT, CLIENT6, FRONT, FRONT6, VIP, WEB, WEB6

LAN, LAN6 = "10.0.0.0/24", "2001:db8:2::/64"
#: A network behind a tunnel, as far as this router knows: the client has it.
TUNNEL = "198.18.7.0/24"
PUBLIC = "192.0.2.12"
INSIDE, OUTSIDE = "198.18.7.7", "198.18.9.9"


def redirect(dest: str, listen: Any = "VIP:80", **keys: Any) -> dict[str, Any]:
    """`config redirect` of target DNAT: the address and port behind it see the client."""
    return {"listen": listen, "snat": "none", "backends": [dest], **keys}


REDIRECTS = [
    Case(
        "src_dport '80', dest_ip, dest_port '8080'",
        [redirect("WEB1:8080")],
        [served("VIP:80", web1=2, seen=CLIENT, port=8080), refused("VIP:81")],
    ),
    Case("dest_port left out", [redirect("WEB1")], [served("VIP:80", web1=2, port=80)]),
    Case(
        "src_dport '9000-9003' to the same ports",
        [redirect("WEB1", "VIP:9000-9003")],
        [served(f"VIP:{port}", web1=1, port=port, seen=CLIENT) for port in (9000, 9003)] + [refused("VIP:9004")],
    ),
    Case(
        "src_dport '9000-9003', dest_port '80'",
        [redirect("WEB1:80", "VIP:9000-9003")],
        [served(f"VIP:{port}", web1=1, port=80) for port in (9000, 9003)],
    ),
    Case(
        "src_dport '8000-8003', dest_port '9000-9003'",
        [
            redirect("WEB1", "VIP:8000-8003", protocol="tcp,udp")
            | {"backends": [{"address": "WEB1", "port": "9000-9003"}]}
        ],
        [
            served(f"VIP:{port}", web1=1, port=port + 1000, seen=CLIENT, protocol=protocol)
            for port in (8000, 8003)
            for protocol in ("tcp", "udp")
        ],
    ),
    Case(
        "proto 'tcp udp'",
        [redirect("WEB1:53", "VIP:53", protocol=["tcp", "udp"])],
        [served("VIP:53", web1=2, seen=CLIENT, protocol=protocol) for protocol in ("tcp", "udp")],
    ),
    Case(
        "proto 'udp'",
        [redirect("WEB1:53", "VIP:53", protocol="udp")],
        [served("VIP:53", web1=2, protocol="udp"), refused("VIP:53")],
    ),
    Case(
        "src_ip '198.18.7.0/24'",
        [redirect("WEB1:80", allow_from=TUNNEL)],
        [served("VIP:80", web1=1, sources=[INSIDE], seen=INSIDE), refused("VIP:80", sources=[OUTSIDE])],
    ),
    Case(
        "src_ip '198.18.7.0/24', and a zone whose input is DROP",
        [redirect("WEB1:80", allow_from=TUNNEL, when_denied="drop")],
        [served("VIP:80", web1=1, sources=[INSIDE]), silent("VIP:80", sources=[OUTSIDE])],
    ),
    Case(
        "src_ip '!198.18.7.0/24'",
        [redirect("WEB1:80", deny_from=TUNNEL)],
        [served("VIP:80", web1=1, sources=[OUTSIDE]), refused("VIP:80", sources=[INSIDE])],
    ),
    Case(
        "src_dip: one of two addresses",
        [redirect("WEB1:80"), redirect("WEB2:80", "VIP2:80")],
        [served("VIP:80", web1=2), served("VIP2:80", web2=2)],
    ),
    Case(
        "a redirect of one port before one of a range around it",
        [redirect("WEB1:80", "VIP:9002"), redirect("WEB2", "VIP:9000-9003")],
        [served("VIP:9002", web1=2, port=80), served("VIP:9003", web2=2, port=9003)],
    ),
    Case(
        "src_dip '*' (any address of the router)",
        [redirect("WEB1:80", "*:30080")],
        [served(f"{FRONT}:30080", web1=1), served("VIP:30080", web1=1)],
    ),
    Case(
        "family 'ipv6'",
        [redirect("[SIX1]:80", "[VIP6]:80")],
        [served("[VIP6]:80", web1=2, seen=CLIENT6)],
    ),
    Case(
        "src 'wan': only what comes in there",
        [redirect("WEB1:80", interface="front")],
        [served("VIP:80", web1=1), refused("VIP:80", at="web2")],
    ),
    Case(
        "reflection '1' (hairpin), reflection_src 'internal'",
        [redirect("WEB1:80")],
        [served("VIP:80", web1=1, at="web1", seen=BACK), served("VIP:80", web1=1, at="web2", seen=BACK)],
    ),
    Case(
        "reflection of a redirect of UDP",
        [redirect("WEB1:53", "VIP:53", protocol="udp")],
        [served("VIP:53", web1=1, at="web1", seen=BACK, protocol="udp")],
    ),
    Case(
        "a redirect for the router itself",
        [redirect("WEB1:80")],
        [served("VIP:80", web1=1, at="balancer", seen=BACK)],
    ),
    Case(
        "a redirect to a port of the router",
        [redirect(f"{FRONT}:7000")],
        [served("VIP:80", balancer=1, port=7000, seen=CLIENT)],
    ),
    Case(
        "dest_ip in the network where clients are, with an SNAT rule beside it",
        [redirect("WEB1:80", snat="masquerade")],
        [served("VIP:80", web1=1, seen=BACK)],
    ),
    Case(
        "a redirect whose src_dip the router does not have",
        [redirect("WEB1:80", f"{VIP}:80")],
        [served(f"{VIP}:80", web1=1)],
    ),
]

#: One router's masquerading, in this order.
MASQUERADING = [
    Case(
        "masq_dest '!198.18.7.0/24': no masquerading into the tunnel",
        [],
        [
            served("198.18.7.7:80", client=2, at="web1", seen=WEB["web1"]),
            served("198.18.7.7:53", client=2, at="web1", seen=WEB["web1"], protocol="udp"),
            served("198.18.9.9:80", client=1, at="web1", seen=FRONT),
        ],
        [{"source": [LAN, LAN6], "destination": [TUNNEL, "2001:db8:18::7"], "snat": "none"}],
    ),
    Case(
        "target 'ACCEPT' (no SNAT) for one protocol and port",
        [],
        [
            served("198.18.9.9:9000", client=1, at="web1", seen=WEB["web1"]),
            served("198.18.9.9:9000", client=1, at="web1", seen=FRONT, protocol="udp"),
        ],
        [{"source": LAN, "protocol": "tcp", "destination_ports": "9000-9001", "snat": "none"}],
    ),
    Case(
        "masq_src '!10.0.0.6': one host keeps its address",
        [],
        [served("198.18.9.9:80", client=1, at="web4", seen=WEB["web4"])],
        [{"source": WEB["web4"], "snat": "none"}],
    ),
    Case(
        "config nat: target 'SNAT', snat_ip, dest_ip, dest_port '8080'",
        [],
        [
            served("198.18.8.8:8080", client=1, at="web1", seen=PUBLIC),
            served("198.18.8.8:80", client=1, at="web1", seen=FRONT),
            served("198.18.9.9:8080", client=1, at="web1", seen=FRONT),
        ],
        [
            {
                "source": LAN,
                "destination": "198.18.8.0/24",
                "protocol": "tcp",
                "destination_ports": 8080,
                "snat": PUBLIC,
            }
        ],
    ),
    Case(
        "config nat: target 'SNAT', snat_ip, snat_port '20000-29999'",
        [],
        [served("198.18.9.9:9002", client=2, at="web1", seen=PUBLIC, seen_ports=range(20000, 30000))],
        [
            {
                "source": LAN,
                "protocol": "tcp",
                "destination_ports": 9002,
                "snat": PUBLIC,
                "snat_ports": "20000-29999",
            }
        ],
    ),
    Case(
        "masq '1', masq6 '1'",
        [],
        [
            served(f"{CLIENT}:80", client=1, at="web2", seen=FRONT),
            served("[2001:db8:18::7]:80", client=1, at="web1", sources=[WEB6["web1"]], seen=WEB6["web1"]),
            served("[2001:db8:18::8]:80", client=1, at="web1", seen=FRONT6),
            served(f"{WEB['web2']}:80", web2=1, at="web1", seen=WEB["web1"]),
        ],
        [{"source": [LAN, LAN6], "out_interface": "front"}],
    ),
]


def test_a_router(balancer: Balancer) -> None:
    check(balancer, [*REDIRECTS, *MASQUERADING], ports=[7000])
