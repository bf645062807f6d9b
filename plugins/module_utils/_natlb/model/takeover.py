# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stateless takeover: a balancer that knows nothing of an established TCP connection goes on with it.

The kernel takes a segment from the middle of a connection for the first packet of a new one
(`nf_conntrack_tcp_loose`). If it comes from the client, a hash leads it to the backend that the same hash has led it to
on the other balancer. If it comes from the backend, its address and port tell the frontend that it has to come from, as
long as only one frontend leads there. Both need a client address that nobody has translated: `snat: none`. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import ConfigError
from ..packets import Family
from .entities import Backend, Frontend, Service
from .slots import HASHES
from .values import endpoint

#: Whether the kernel takes a segment from the middle of a connection for the first packet of a new one.
LOOSE = "net/netfilter/nf_conntrack_tcp_loose"


class Obstacle(NamedTuple):
    """Why connections of a service cannot be taken over, and what would let them. `sharing` names the service that has
    a backend's port as well, if that is why."""

    problem: str
    remedy: str
    sharing: str = ""

    def __str__(self) -> str:
        return f"{self.problem} ({self.remedy})"


_TRANSLATED = Obstacle("backends answer the balancer, which alone knows the client", "add snat: none")


def obstacle(service: Service) -> Obstacle | None:
    """What of the service alone keeps its connections from being taken over; None where nothing does."""
    if "tcp" not in service.protocols:
        return Obstacle(f"there is none for {' and '.join(service.protocols)}", "leave it out")
    if service.snat != "none":
        return _TRANSLATED
    if len(service.source_nat.answers) > 1:
        return Obstacle("backends see some clients by another address than their own", "say snat: none of all of them")
    if service.method not in HASHES:
        remedy = "take source_hash or flow_hash"
        return Obstacle(f"another balancer does not find the same backend by {service.method}", remedy)
    if service.affinity_s:
        return Obstacle("affinity leads clients to backends that only this balancer remembers", "leave affinity out")
    if service.limits_backends:
        remedy = "leave max_connections of the backends out"
        return Obstacle("connections that met a full backend are elsewhere than their hash says", remedy)
    if not service.is_exact:
        remedy = "listen on an address and a single port, without interface"
        return Obstacle("the packet of a backend does not tell by which address or port the client came", remedy)
    return None


_DECLARED = Obstacle("takeover: false is declared", "leave it out")


class Way(NamedTuple):
    """Where packets of a backend come from, and the frontend that clients know instead."""

    backend: Backend
    port: int
    frontend: Frontend


def ways(service: Service, frontends: Iterable[Frontend], family: Family) -> Iterator[Way]:
    """The ways back of a service that takes over, drained backends included; `frontends` are its own of a family."""
    backends = [backend for backend in service.backends if backend.family == family]
    for frontend in frontends:
        if frontend.protocol == "tcp":
            yield from (Way(backend, backend.port_at(frontend.low), frontend) for backend in backends)


def taking_over(services: Sequence[Service]) -> frozenset[str]:
    """The names of the services whose connections are taken over; `services` are all that there are."""
    kept = obstacles(services)
    return frozenset(service.name for service in services if service.name not in kept)


def obstacles(services: Sequence[Service]) -> dict[str, Obstacle]:
    """What keeps services from taking over, by their names; `services` are all that there are."""
    found = {service.name: _DECLARED if service.takeover is False else obstacle(service) for service in services}
    if None in found.values():
        behind = _Behind(services)
        found.update({item.name: behind.doubt(item) for item in services if found[item.name] is None})
    return {name: each for name, each in found.items() if each is not None}


def decides(service: Service) -> Hashable:
    """All of a service that may change which services take over. States and weights do not."""
    if not service.source_nat.shows_clients or "tcp" not in service.protocols:
        return None
    backends = frozenset((backend.address, backend.port, backend.shift) for backend in service.backends)
    return service.takeover is not False and obstacle(service) is None, service.frontends(), backends


def errors(services: Mapping[int, Service]) -> Iterator[ConfigError]:
    """Services that are to be taken over, and share a backend's port with another frontend. What keeps a service by
    itself is told by `fitting.py`."""
    asked = {index: service for index, service in services.items() if service.takeover and obstacle(service) is None}
    behind = _Behind(list(services.values())) if asked else None
    for index, service in asked.items():
        doubt = behind.doubt(service) if behind is not None else None
        if doubt is not None:
            yield ConfigError(f"services[{index}].takeover", doubt.problem, doubt.remedy)


class _Behind:
    """Which frontends of all services lead to a place, and leave the client's address as it is."""

    def __init__(self, services: Sequence[Service]) -> None:
        #: Frontends and the names of their services. Exact ones by the backend's address and port; others, with the
        #: ports, by its address.
        self._exact: dict[tuple[str, int], list[tuple[Frontend, str]]] = {}
        self._others: dict[str, list[tuple[int, int, tuple[Frontend, str]]]] = {}
        for service in services:
            if service.source_nat.shows_clients:
                for frontend in service.frontends():
                    if frontend.protocol == "tcp":
                        self._add(service, frontend)

    def _add(self, service: Service, frontend: Frontend) -> None:
        claim = (frontend, service.name)
        for backend in service.backends:
            if backend.family == frontend.family and frontend.exact:
                self._exact.setdefault((backend.address, backend.port_at(frontend.low)), []).append(claim)
            elif backend.family == frontend.family:
                low, high = backend.ports_at(frontend.low, frontend.high)
                self._others.setdefault(backend.address, []).append((low, high, claim))

    def doubt(self, service: Service) -> Obstacle | None:
        """Why a packet of a backend may belong to another frontend; None where it cannot."""
        for family in service.families():
            frontends = [frontend for frontend in service.frontends() if frontend.family == family]
            for way in ways(service, frontends, family):
                others = [
                    claim for low, high, claim in self._others.get(way.backend.address, ()) if low <= way.port <= high
                ]
                for other, name in (*self._exact[way.backend.address, way.port], *others):
                    if other != way.frontend:
                        place = endpoint(way.backend.address, way.port)
                        of = "" if name == service.name else f" (service {name})"
                        problem = f"{place} is behind {way.frontend} and {other}{of}, so its packets may be of either"
                        return Obstacle(problem, "let each frontend have a port of its own there", name)
        return None
