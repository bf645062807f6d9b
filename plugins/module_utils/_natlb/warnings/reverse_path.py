# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients, and backends, whose packets a strict reverse path filter drops before any rule sees them.

It drops packets that come in by another interface than the reply would take (rp_filter=1, RFC 3704). This is known for
a service that is bound to an interface by which no route leads to any of its clients.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Callable

from ..host import iproute, sysctl
from ..host.routes import Network
from ..model.entities import Backend, Config, Service
from ..model.marks import Mark

_STRICT = 1
#: Marks whose ways are looked up.
_ASKED = 16
#: Preferences of the rules that every host has (ip-rule(8)).
_USUAL = {0, 32766, 32767}


def strict(interface: str) -> bool:
    """The larger value of all and of the interface counts (Documentation/networking/ip-sysctl.rst)."""
    names = [f"net/ipv4/conf/{where}/rp_filter" for where in ("all", interface)]
    return max(map(sysctl.number, names)) == _STRICT


def by_main_table() -> bool:
    """Whether no rule of routing sends packets to other tables, of which nobody here knows."""
    return all(rule.get("priority") in _USUAL for rule in iproute.query("ip", "rule", "show"))


def without_return_route(
    config: Config, ways: Sequence[tuple[Network, str]], interfaces: Collection[str]
) -> list[Service]:
    """The services on one of these interfaces without a route by it to any client."""
    return [
        service
        for service in config.services
        if service.interface in interfaces and "ip" in service.families() and not _reached(service, ways)
    ]


def _reached(service: Service, ways: Sequence[tuple[Network, str]]) -> bool:
    admitted = service.admission("ip")
    networks = admitted.networks if admitted is not None and admitted.only else ("0.0.0.0/0",)
    sources = [ipaddress.IPv4Network(source) for source in networks]
    return any(
        interface == service.interface and isinstance(network, ipaddress.IPv4Network) and network.overlaps(source)
        for network, interface in ways
        for source in sources
    )


def warning(service: Service) -> str:
    name = service.interface
    return (
        f"service {service.name}: its packets on {name} are dropped, since rp_filter is strict there "
        f"(net.ipv4.conf.{name}.rp_filter, or that of all, is 1) and no route by {name} leads back to its clients; add "
        f"that route, or set both to 2 or 0"
    )


def marked(config: Config, way: Callable[[str, int], str], is_strict: Callable[[str], bool]) -> Iterator[str]:
    """Warnings of marks by which packets leave by another interface than those without one: their answers have none.
    `way` is the interface of an address and a mark.

    One backend of each mark is asked for, since each question is a program that runs while the lock is held.
    """
    for mark, (service, backend) in itertools.islice(_first_of_each(config), _ASKED):
        name = way(backend.address, mark.value)
        if name and name != way(backend.address, 0) and is_strict(name):
            yield (
                f"service {service.name}: packets to {backend.address} leave by {name} because of their mark {mark}, "
                f"and its answers are dropped there: they have no mark, and rp_filter is strict "
                f"(net.ipv4.conf.{name}.rp_filter, or that of all, is 1); set net.ipv4.conf.{name}.rp_filter to 2"
            )


def _first_of_each(config: Config) -> Iterator[tuple[Mark, tuple[Service, Backend]]]:
    """The marks of packets to backends of IPv4, each with the first one that has it."""
    seen: set[Mark] = set()
    for service in config.services:
        for backend in service.backends if service.is_marked else ():
            mark = service.mark_to(backend)
            if mark is not None and mark.value and backend.family == "ip" and mark not in seen:
                seen.add(mark)
                yield mark, (service, backend)
