# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations whose addresses and ports lie so that a prefix tree over them would be deeper than the sixteen jumps in
a row that the kernel takes from iptables-nft."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from kernel_lab.balancer import Balancer, Mapping, service
from kernel_lab.topology import VIP, WEB, WEB6

NAMES = ["web1", "web2", "web3", "web4"]


def webs(family: int, index: int, port: int = 80) -> list[Mapping]:
    name = NAMES[index % 4]
    return [{"name": name, "address": (WEB if family == 4 else WEB6)[name], "port": port}]


def powers(within: str) -> list[str]:
    """Addresses of a network whose distance to its first one is a power of two."""
    network = ipaddress.ip_network(within)
    return [str(network[1 << bit]) for bit in range(network.max_prefixlen - network.prefixlen)]


FOUR, SIX = powers("64.0.0.0/2"), powers("4000::/2")
PORTS = [1 << bit for bit in range(16)]


def written(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def declared(addresses: list[str], ports: list[int], **keys: Any) -> list[Mapping]:
    return [
        service(
            f"s{i}-{port}",
            listen=written(address, port),
            **{"backends": webs(6 if ":" in address else 4, i), **keys},
        )
        for i, address in enumerate(addresses)
        for port in ports
    ]


#: What leads on from a service, chain by chain, down to a backend.
DEEP_SERVICES = {
    "allow_from": {
        "allow_from": [
            *(f"{ipaddress.ip_address((1 << 31) ^ (1 << bit) & ~((1 << bit) - 1))}/{32 - bit}" for bit in range(30)),
            "192.0.0.0/16",
        ],
        "max_connections_per_client": 1000,
    },
    "source_hash": {
        "method": "source_hash",
        "affinity": "1h",
        "snat": "none",
        "backends": [
            *webs(4, 0),
            *({"address": f"10.99.{i // 250}.{i % 250 + 1}", "weight": 1 + i % 7} for i in range(300)),
        ],
    },
}


@pytest.mark.parametrize("case", ["ipv4", "ipv6", "ports", "both", "both of ipv6", "limits"])
def test_addresses_and_ports_at_powers_of_two(balancer: Balancer, case: str) -> None:
    services = {
        "ipv4": lambda: declared(FOUR, [80]),
        "ipv6": lambda: declared(SIX, [80]),
        "ports": lambda: declared([VIP], PORTS),
        "both": lambda: declared(FOUR, PORTS),
        "both of ipv6": lambda: declared(SIX[::4], PORTS),
        "limits": lambda: declared(SIX, [80], snat="none", max_connections_per_client=9),
    }[case]()
    balancer.apply(services)
    assert not balancer.apply(services).changed
    for item in services[:: max(1, len(services) // 8)]:
        assert balancer.tally(item["listen"]) == {item["backends"][0]["name"]: 1}
    balancer.apply(services[1:])
    balancer.remove()
    assert balancer.ours_left() == []


@pytest.mark.parametrize("case", DEEP_SERVICES)
def test_with_services_that_are_deep_themselves(balancer: Balancer, case: str) -> None:
    services = [*declared(FOUR, [80, 443]), service("deep", **DEEP_SERVICES[case])]
    balancer.apply(services)
    assert not balancer.apply(services).changed
    assert balancer.tally(f"{FOUR[-1]}:80") == {NAMES[(len(FOUR) - 1) % 4]: 1}
    balancer.remove()
    assert balancer.ours_left() == []


def test_backends_at_powers_of_two(balancer: Balancer) -> None:
    """Their packets that belong to no connection are looked for in a tree as well."""
    backends = [*webs(6, 0), *({"address": address, "port": 8080} for address in SIX)]
    services = [service(listen="[2001:db8:1::10]:80", snat="none", method="random", backends=backends)]
    balancer.apply(services)
    assert not balancer.apply(services).changed
