# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of services that are routed to this host, and that no host has.

A packet to a frontend is translated. A packet to another port of its address would be routed by the default route: back
to the router that it came from, which sends it here again, until its time to live ends. Such packets are refused as if
nothing listened. They are identified by their path: in and out by one interface of a default route.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ..host.routes import Network, Ways
from ..packets import FAMILIES, Family, family_of
from .entities import Config


class Unclaimed(NamedTuple):
    """Of one family: the addresses, and the interfaces of the default routes."""

    addresses: tuple[str, ...]
    interfaces: tuple[str, ...]


def unclaimed(config: Config, routes: Sequence[tuple[Network, str]], local: Collection[str]) -> dict[Family, Unclaimed]:
    """By family, where there are any. `routes` are as in `Routes.ways`.

    An address of a network that a route leads to may be another host's. One that is this host's own just now is named
    all the same: its packets do not come by, and another host may have it in a minute.
    """
    named = sorted(set(_addresses(config)))
    if not named:
        return {}
    # Of one that refuses packets `Ways` has no interface either.
    specific = [(net, "somewhere") for net, _name in routes if net.prefixlen and not _of_own_address(net, local)]
    ways = Ways(specific)
    found: dict[Family, Unclaimed] = {}
    for family in FAMILIES:
        version = 6 if family == "ip6" else 4
        interfaces = {name for net, name in routes if name and not net.prefixlen and net.version == version}
        addresses = tuple(address for address in named if family_of(address) == family and not ways.interface(address))
        if interfaces and addresses:
            found[family] = Unclaimed(addresses, tuple(sorted(interfaces)))
    return found


def _of_own_address(network: Network, local: Collection[str]) -> bool:
    return network.prefixlen == network.max_prefixlen and str(network.network_address) in local


def _addresses(config: Config) -> Iterator[str]:
    """Where clients connect to, and where answers to source NAT come back to."""
    for service in config.services:
        # Of a network, whole or in part, other hosts may have the addresses: this one may be on the way to them.
        yield from (listen.address for listen in service.listens if listen.address and "/" not in listen.address)
        yield from service.source_nat.addresses
    yield from (item.snat_address for item in config.egress if item.snat_address)
