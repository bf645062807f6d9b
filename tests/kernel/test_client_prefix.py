# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of one network that are one client to affinity and to a hash, and to nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import NAMES, VIP, VIP6, WEB6

PREFIX = {"ipv4": 24, "ipv6": 124}
FAMILIES = ("ip", "ip6")
TARGETS = {"ip": f"{VIP}:80", "ip6": f"[{VIP6}]:80"}


def declared(**keys: Any) -> Mapping:
    """One service in both families."""
    backends = [*service()["backends"], *({"name": f"{name}-six", "address": WEB6[name]} for name in NAMES)]
    return service(listen=list(TARGETS.values()), backends=backends, **keys)


def network(family: str, number: int) -> list[str]:
    """Three clients of a network, with its first address and its last one."""
    hosts = (77, 0, 255) if family == "ip" else (7, 0, 15)
    return [f"198.18.{number}.{n}" if family == "ip" else f"2001:db8:18::{16 * number + n:x}" for n in hosts]


def homes(balancer: Balancer, family: str, clients: list[str]) -> list[str]:
    return [answer.name for answer in balancer.ask(TARGETS[family], len(clients), sources=clients)]


@pytest.mark.parametrize("family", FAMILIES)
def test_affinity_is_for_the_network(balancer: Balancer, family: str) -> None:
    balancer.apply([declared(affinity=600, client_prefix=PREFIX)])
    networks = [network(family, number) for number in range(1, 13)]
    firsts = homes(balancer, family, [clients[0] for clients in networks])
    assert set(firsts) == set(NAMES)
    for clients, first in zip(reversed(networks), reversed(firsts), strict=True):
        assert set(homes(balancer, family, clients[::-1])) == {first}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_hash_is_of_the_network(balancer: Balancer, family: str) -> None:
    networks = [network(family, number) for number in range(1, 41)]
    balancer.apply([declared(method="source_hash", client_prefix=PREFIX)])
    found = [homes(balancer, family, clients) for clients in networks]
    assert all(len(set(names)) == 1 for names in found), found
    assert {names[0] for names in found} == set(NAMES)
    balancer.apply([declared(method="source_hash")])
    assert not all(len(set(homes(balancer, family, clients))) == 1 for clients in networks)


def test_services_with_the_same_backends_may_differ_in_it(balancer: Balancer) -> None:
    """On nftables they would share a table of slots otherwise."""
    whole = service("whole", method="source_hash", backends=webs(port=80))
    wide = {**whole, "name": "wide", "listen": f"{VIP}:81", "client_prefix": {"ipv4": 24}}
    balancer.apply([whole, wide])
    networks = [network("ip", number) for number in range(1, 21)]
    for target, alike in ((f"{VIP}:80", False), (f"{VIP}:81", True)):
        found = [{a.name for a in balancer.ask(target, 3, sources=clients)} for clients in networks]
        assert set.union(*found) == set(NAMES)
        assert all(len(names) == 1 for names in found) == alike


def test_limits_are_for_each_address(balancer: Balancer) -> None:
    balancer.apply([declared(affinity=600, client_prefix=PREFIX, max_connections_per_client=1)])
    one, other, third = network("ip", 5)
    held = balancer.hold(source=one)[0][1]
    assert balancer.hold(source=other)[0][1].name == balancer.hold(source=third)[0][1].name == held.name
    assert balancer.ask(sources=[one])[0].error == "ConnectionRefusedError"


def test_it_can_change_while_clients_are_known(balancer: Balancer) -> None:
    for prefix in ({}, PREFIX, {"ipv4": 16, "ipv6": 112}, {}):
        balancer.apply([declared(affinity=600, client_prefix=prefix)])
        assert balancer.apply([declared(affinity=600, client_prefix=prefix)]).changed is False
        for family in FAMILIES:
            clients = network(family, 9)
            names = homes(balancer, family, clients * 2)
            assert names[:3] == names[3:]
            assert not prefix or len(set(names)) == 1
    assert balancer.info()["drift"] is False
