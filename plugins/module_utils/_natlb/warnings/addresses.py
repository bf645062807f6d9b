# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared addresses, compared with the addresses and routes of this host."""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ..host import addresses
from ..host.routes import Network, Ways
from ..model.entities import Backend, Config, Service
from ..model.ranges import number_range


class Addressing(NamedTuple):
    """The addresses of this host, its connected networks, and its routes."""

    local: Collection[str]
    connected: Sequence[str]
    #: (network, interface), an empty interface where a route refuses packets.
    routes: Sequence[tuple[Network, str]]


def warnings(config: Config, here: Addressing, needs_routes: Collection[str] = ()) -> list[str]:
    """Warnings about addresses that no packet reaches, or that are frontends again after the translation.

    `needs_routes` are the services whose listening addresses have to have a route.
    """
    around = _Around(here.connected)
    found: list[str] = []
    told: set[str] = set()
    for service in config.services:
        for key, address, index in _of_backends(service):
            if address not in here.local:
                told.add(address)
                found.append(_of_backend(service, key, address, index))
    for owner, address, kind in _own_addresses(config):
        network = None if address in here.local or address in told else around.network(address)
        if network is not None:
            told.add(address)
            found.append(_unanswered(owner, address, kind, network))
    found.extend(_without_route([s for s in config.services if s.name in needs_routes], here, told))
    found.extend(_twice(config, here, around))
    return found


def elsewhere(services: Sequence[Service], local: Collection[str], connected: Sequence[str]) -> dict[str, list[str]]:
    """The addresses that a service translates to and answers to which come to another host, or to none, by its name.

    They are in a network that is connected, and no interface has them. One of another network may be routed here.
    """
    away = {item.name: [one for one in item.source_nat.addresses if one not in local] for item in services}
    around = _Around(connected if any(away.values()) else ())
    found = {name: [one for one in addresses if around.network(one)] for name, addresses in away.items()}
    return {name: addresses for name, addresses in found.items() if addresses}


class _Around:
    """Which connected network an address lies in."""

    def __init__(self, connected: Sequence[str]) -> None:
        networks = [ipaddress.ip_network(item) for item in connected]
        self._networks = [(net.version, *number_range(item), net) for item, net in zip(connected, networks)]

    def network(self, address: str) -> Network | None:
        version, number = addresses.number(address)
        for its_version, low, high, network in self._networks:
            if its_version == version and low <= number <= high:
                return network
        return None


def _own_addresses(config: Config) -> Iterator[tuple[str, str, str]]:
    """(whose, address, `listen` or `snat`) of each address that this host has to answer for."""
    for service in config.services:
        for listen in service.listens:
            # A network is routed here, whoever has its addresses; or nobody has them.
            if listen.address and "/" not in listen.address:
                yield f"service {service.name}", listen.address, "listen"
        for address in service.source_nat.addresses:
            yield f"service {service.name}", address, "snat"
    for item in config.egress:
        if item.snat_address:
            yield f"egress of {item.sources[0]}", item.snat_address, "snat"


def _of_backends(service: Service) -> Iterator[tuple[str, str, int]]:
    """(key, address, number of the backend) of each source address that one of its backends has."""
    if not service.source_nat.addresses:
        return
    places = {backend.address: index for index, backend in enumerate(service.backends)}
    given = [
        ("snat", service.source_nat.usual),
        *((f"backends[{index}].snat", backend.snat) for index, backend in enumerate(service.backends)),
        *((f"snat_by_client[{index}].snat", rule.snat) for index, rule in enumerate(service.snat_by_client)),
    ]
    for key, snat in given:
        for address in snat.addresses if snat else ():
            if address in places:
                yield key, address, places[address]


def _of_backend(service: Service, key: str, address: str, index: int) -> str:
    """What is sent back to a backend's own address never comes to this host, unless it is one of this host's too."""
    return (
        f"service {service.name}: {key}: {address} is the address of backends[{index}], which gets the answers then; "
        f"name an address of the balancer, or take masquerade"
    )


def _unanswered(owner: str, address: str, kind: str, network: Network) -> str:
    """An address of a connected network that is not local gets no packets: nobody answers ARP or neighbour
    solicitations for it. One of another network may well be routed here, which cannot be seen from here."""
    what = address if kind == "listen" else f"snat {address}"
    whose = "its packets do" if kind == "listen" else "answers to it do"
    return (
        f"{owner}: {what} is in the connected network {network}, but no interface of this host has it, so {whose} not "
        f"come here; give it to an interface (a standby of a virtual address is fine)"
    )


def _without_route(services: Sequence[Service], here: Addressing, told: Collection[str]) -> Iterator[str]:
    """A packet that is not translated meets the routing table before any rule can refuse it."""
    ways = Ways(here.routes)
    for service in services:
        for address in {a: None for a in (listen.address for listen in service.listens) if a and "/" not in a}:
            if address not in here.local and address not in told and not ways.interface(address):
                yield (
                    f"service {service.name}: no route of this host leads to {address}, so the iptables engine cannot "
                    f"answer refused clients: they wait, or learn that the network is unreachable; give the "
                    f"address to an interface (ip address add {address} dev lo), or use engine: nftables"
                )


def _twice(config: Config, here: Addressing, around: _Around) -> Iterator[str]:
    """Backends that are frontends here. NAT happens once: the first one leads to this host itself, not to a backend."""
    frontends = _Frontends(config)
    for service in config.services:
        for backend in service.backends:
            is_local = backend.address in here.local
            if not (is_local or backend.address in frontends.addresses):
                continue
            other = frontends.meeting(service, backend, is_local)
            if other is not None and (is_local or around.network(backend.address) is None):
                what = "end on this host" if is_local else "go nowhere unless another balancer has that address"
                yield (
                    f"service {service.name}: its backend {backend.key} is a frontend of service {other.name} here; "
                    f"a connection is translated only once, so they {what}; name the backends of {other.name} instead"
                )


class _Frontends:
    """Who listens on an address and port of this balancer."""

    def __init__(self, config: Config) -> None:
        self.addresses = {listen.address for service in config.services for listen in service.listens}
        declared: dict[tuple[str, str | None], list[tuple[int, int, Service]]] = {}
        for service in config.services:
            for protocol in service.protocols:
                for listen in service.listens:
                    declared.setdefault((protocol, listen.address), []).append((listen.low, listen.high, service))
        #: First ports in order, and of all ranges up to each the one that ends last.
        self._ranges: dict[tuple[str, str | None], tuple[list[int], list[tuple[int, Service]]]] = {}
        for key, ranges in declared.items():
            ranges.sort(key=lambda item: item[:2])
            widest = [(high, service) for _low, high, service in ranges]
            for index in range(1, len(widest)):
                widest[index] = max(widest[index - 1], widest[index], key=lambda item: item[0])
            self._ranges[key] = ([low for low, _high, _service in ranges], widest)

    def meeting(self, service: Service, backend: Backend, is_local: bool) -> Service | None:
        """Another service that listens where the backend is; `*` is every local address."""
        for protocol in service.protocols:
            for address in (backend.address, None) if is_local else (backend.address,):
                lows, widest = self._ranges.get((protocol, address), ([], []))
                for low, high in _ports(service, backend) if lows else ():
                    index = bisect_right(lows, high) - 1
                    if index >= 0 and widest[index][0] >= low and widest[index][1] is not service:
                        return widest[index][1]
        return None


def _ports(service: Service, backend: Backend) -> list[tuple[int, int]]:
    return list({backend.ports_at(listen.low, listen.high): None for listen in service.listens})
