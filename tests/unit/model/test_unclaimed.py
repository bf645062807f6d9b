# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of services that no host has."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.model.unclaimed import Unclaimed, unclaimed

BACKENDS = [{"address": "10.0.0.3"}, {"address": "2001:db8:2::3"}]
ROUTES = [
    ("0.0.0.0/0", "front"),
    ("192.0.2.0/24", "front"),
    ("10.0.0.0/8", "back"),
    ("198.51.100.7/32", "back"),
    ("198.51.100.8/32", ""),
    ("::/0", "front6"),
    ("2001:db8:1::/64", "front6"),
    ("2001:db8:9::9/128", "dummy"),
    ("2001:db8:9::8/128", "back"),
]
LOCAL = {"192.0.2.2", "203.0.113.9", "2001:db8:9::9"}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"listen": "203.0.113.7:80"}, {"ip": ["203.0.113.7"]}),
        ({"listen": ["203.0.113.7:80", "203.0.113.7:81"]}, {"ip": ["203.0.113.7"]}),
        # This host's own just now, and without a network of its own.
        ({"listen": "203.0.113.9:80"}, {"ip": ["203.0.113.9"]}),
        # In a connected network, behind another router, somebody's own, and swallowed already.
        ({"listen": ["192.0.2.10:80", "10.9.9.9:80", "198.51.100.7:80", "198.51.100.8:80"]}, {}),
        ({"listen": "*:80"}, {}),
        # Somebody may have them, and this host be on the way there.
        ({"listen": ["203.0.113.0/24:80", "0.0.0.0/0:80"]}, {}),
        ({"listen": "192.0.2.10:80", "snat": ["203.0.113.8", "192.0.2.11"]}, {"ip": ["203.0.113.8"]}),
        ({"listen": "[2001:db8:1::10]:80"}, {}),
        ({"listen": "[2001:db8:9::7]:80"}, {"ip6": ["2001:db8:9::7"]}),
        ({"listen": ["[2001:db8:9::8]:80", "[2001:db8:9::9]:80"]}, {"ip6": ["2001:db8:9::9"]}),
    ],
)
def test_unclaimed(keys: dict[str, Any], expected: dict[str, list[str]]) -> None:
    ipv6 = "[2001" in str(keys["listen"])
    backends = [backend for backend in BACKENDS if (":" in backend["address"]) == ipv6]
    config = parse_config([{"name": "web", "backends": backends, **keys}])
    routes = [(ip_network(network), interface) for network, interface in ROUTES]
    interfaces = {"ip": ("front",), "ip6": ("front6",)}
    assert unclaimed(config, routes, LOCAL) == {
        family: Unclaimed(tuple(addresses), interfaces[family]) for family, addresses in expected.items()
    }


def test_without_a_default_route_nothing_loops() -> None:
    config = parse_config([{"name": "web", "listen": "203.0.113.7:80", "backends": BACKENDS[:1]}])
    assert unclaimed(config, [(ip_network("192.0.2.0/24"), "front")], LOCAL) == {}
    assert unclaimed(config, [(ip_network("0.0.0.0/0"), "")], LOCAL) == {}


def test_egress_counts_too() -> None:
    config = parse_config([], [{"source": "10.0.0.0/24", "snat": "203.0.113.7"}])
    assert unclaimed(config, [(ip_network("0.0.0.0/0"), "front")], LOCAL) == {
        "ip": Unclaimed(("203.0.113.7",), ("front",))
    }
