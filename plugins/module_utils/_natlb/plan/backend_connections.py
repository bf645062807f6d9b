# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections of services to one of their backends: how many there are, and the end of those that are in vain.

A client sends its first packet again for some time. While the kernel remembers the attempt, each of them goes to the
same backend; without the entry the next one takes another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from ..host import proc, tracked
from ..host.tracked import Tracked
from ..model.effective import Place
from ..model.entities import Config, Service
from ..packets import PROTOCOLS, Family, Protocol
from .stale_flows import Frontends


class Connections(NamedTuple):
    """How many have both of their ends, and how many are attempts that the backend has yet to answer."""

    active: int
    opening: int


NONE = Connections(0, 0)


class BackendConnections:
    """Tells whose each connection is, of all services that are declared: some may take connections before others.

    Made once for a declaration, and asked again and again: of ten thousand services that takes a tenth of a second.
    Services that are asked about are of these; one that is given with some of its backends has those alone.
    """

    def __init__(self, declared: Iterable[Service]) -> None:
        config = Config(tuple(declared), ())
        protocols = sorted({protocol for service in config.services for protocol in service.protocols})
        self._frontends = {protocol: Frontends(config, protocol, set()) for protocol in protocols}

    def count(self, services: Iterable[Service], address: str) -> Connections:
        """The connections that these services have to this address. Raises `HostError`."""
        found = list(self._to(services, address))
        return Connections(sum(item.active for item in found), sum(item.opening for item in found))

    def active_of(self, services: Iterable[Service]) -> Iterator[tuple[Place, bytes]]:
        """The connections of these services both of whose ends are there: the backend that answers, and what tells the
        connection from others. As `count`."""
        for item, (owner, *_others) in self._asked(services):
            if item.active:
                for backend in islice(owner.backends_at(item.backend, item.target[1]), 1):
                    yield Place(owner.name, backend.address, backend.port), item.original

    def end_attempts(self, services: Iterable[Service], address: str) -> int:
        """Delete the attempts to this address that these services have sent there. Returns how many. As `count`."""
        return tracked.delete(item for item in self._to(services, address) if item.opening)

    def end_all(self, services: Iterable[Service], address: str) -> int:
        """The same of established connections as well: the next packet of each is answered with a reset."""
        return tracked.delete(self._to(services, address))

    def end_of_dead(self, places: Iterable[Place], declared: Mapping[str, Service]) -> None:
        """Of backends that are dead: attempts, so that the next packet of a client that still tries takes another one;
        where the service asks for it, established connections as well."""
        attempts: dict[str, list[Service]] = {}
        resets: dict[str, list[Service]] = {}
        for place in places:
            service = declared.get(place.service or "")
            if service is None:
                continue
            # Another one at the same address lives on.
            dead = tuple(item for item in service.backends if (item.address, item.port) == place[1:])
            service = replace(service, backends=dead)
            if service.health is not None and service.health.on_down == "reset":
                resets.setdefault(place.address, []).append(service)
            elif service.redispatch or "udp" in service.protocols:
                attempts.setdefault(place.address, []).append(service)
        for address, services in attempts.items():
            self.end_attempts(services, address)
        for address, services in resets.items():
            self.end_all(services, address)

    def _to(self, services: Iterable[Service], address: str) -> Iterator[Tracked]:
        return (item for item, _owners in self._asked(services, address))

    def _asked(self, services: Iterable[Service], only: str | None = None) -> Iterator[tuple[Tracked, list[Service]]]:
        """The connections of these services to their backends, or to those at one address, each once: with the services
        that it may be of, as they are given. One that is given several times has the backends of all."""
        asked = _joined(services)
        ports: dict[tuple[Family, Protocol, str], set[int | None]] = {}
        for service in asked.values():
            for backend in service.backends:
                for protocol in service.protocols if only in (None, backend.address) else ():
                    ports.setdefault((backend.family, protocol, backend.address), set()).add(backend.port)
        local = proc.local_addresses()
        frontends = {protocol: self._frontends[protocol].on(local) for _family, protocol, _address in ports}
        for (family, protocol, address), wanted in ports.items():
            for port in {None} if None in wanted else wanted:
                for item in tracked.of_backend(family, protocol, address, port):
                    # Another service may lead to the same backend, and somebody else as well.
                    found = frontends[protocol].owners(family, item.target, item.backend, asked)
                    owners = [asked[service.name] for service in found if service.name in asked]
                    if owners:
                        yield item, owners


def end_untranslated(config: Config) -> int:
    """Delete attempts to frontends that met no rules: the client's next packet meets them. Returns how many there were.

    Raises `HostError`.
    """
    local = proc.local_addresses()
    frontends: dict[str, Frontends] = {protocol: Frontends(config, protocol, local) for protocol in PROTOCOLS}
    families = config.families()
    found = [item for item in tracked.unanswered(translated=False) if item.family in families]
    return tracked.delete(
        item for item in found if frontends[item.protocol].find(item.family, *item.target, item.client, direct=True)
    )


def _joined(services: Iterable[Service]) -> dict[str, Service]:
    found: dict[str, Service] = {}
    for service in services:
        former = found.get(service.name)
        backends = dict.fromkeys((*(former.backends if former else ()), *service.backends))
        found[service.name] = service if former is None else replace(service, backends=tuple(backends))
    return found
