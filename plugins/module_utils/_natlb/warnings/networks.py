# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services on a network that has their own backends, or whose addresses nobody answers for.

A backend whose gateway is this host opens connections of its own, to the ports of the service and to addresses of the
network: these are balanced as well, and may come back to it. A proxy that passes on what it accepts goes round in
circles. An `interface` tells clients from backends, unless both come in by one. Pure.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from ..host import addresses
from ..host.routes import Network, Ways
from ..model.entities import Config, Service
from ..model.precedence import in_network
from ..model.spelling import is_network, ports_text
from ..packets import family_of

#: Backends that a message names.
_NAMED = 3


def warnings(config: Config, ways: Ways) -> Iterator[str]:
    """A warning for each such service."""
    for service in config.services:
        for listen in service.listens:
            network = listen.address or ""
            found = _within(service, network, ways) if "/" in network else []
            if found:
                named = ", ".join(found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
                ports = ports_text(listen.low, listen.high)
                yield (
                    f"service {service.name}: its backends {named} are in {network} and come in where its clients do: "
                    f"if this host is their gateway, connections that they open to port {ports} of that network are "
                    f"balanced as well, and may come back to them; name the interface of the clients (interface)"
                )
                break


class Own(NamedTuple):
    """Addresses of this host, and networks all of whose addresses are."""

    addresses: Collection[str]
    networks: Collection[str]


def unanswered(
    config: Config,
    links: Sequence[tuple[Network, str]],
    own: Own,
    proxies: Callable[[], Iterable[str]],
) -> Iterator[str]:
    """A warning for each network of a link whose hosts ask in vain who has its addresses.

    `links` are connected networks and their interfaces. `proxies` tells for which addresses this host answers beside
    its own; it is asked only where that matters. One address within a network is enough: a standby need not have the
    others, and who gives addresses to an interface one by one knows of it.
    """
    local = [ipaddress.ip_network(network) for network in own.networks]
    numbers = sorted(map(addresses.number, own.addresses))
    for service in config.services:
        for address in {listen.address: None for listen in service.listens if is_network(listen.address)}:
            network = ipaddress.ip_network(str(address))
            link = next(
                ((wide, name) for wide, name in links if _is_in(network, wide) and service.interface in (None, name)),
                None,
            )
            if link is None or _has_one(network, numbers) or any(_is_in(network, wide) for wide in local):
                continue
            if not any(_is_in(ipaddress.ip_network(proxy), network) for proxy in proxies()):
                yield _unanswered(service, network, *link)


def _has_one(network: Network, numbers: Sequence[tuple[int, int]]) -> bool:
    """Whether one of these addresses, sorted by family and number, lies in it."""
    first = bisect_left(numbers, (network.version, int(network[0])))
    return first < len(numbers) and numbers[first] <= (network.version, int(network[-1]))


def _unanswered(service: Service, network: Network, wide: Network, interface: str) -> str:
    asks, answer = "neighbour discovery", "give its addresses to an interface"
    if network.version == 4:
        asks, answer = "ARP", f"let it answer (ip route add local {network} dev lo)"
    return (
        f"service {service.name}: {network} is in the network {wide} of {interface}, and this host answers no {asks} "
        f"for its addresses, so clients on that link do not come here; {answer}, or name the interface of the clients "
        f"(interface) if it is another one"
    )


def _is_in(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _within(service: Service, network: str, ways: Ways) -> list[str]:
    """The backends in the network whose connections it would take."""
    return [
        backend.address
        for backend in service.backends
        if backend.family == family_of(network)
        and in_network(network, backend.address)
        and service.admits(backend.address)
        and service.interface in (None, ways.interface(backend.address))
    ]
