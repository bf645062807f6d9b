# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked, and for which backends: services that would ask the same share one check. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..model.effective import Place
from ..model.entities import Backend, Service
from ..model.health import Health
from ..model.values import endpoint


class Question(NamedTuple):
    """One check: how to ask, and whom. `port` is None only for a command, where the backend has none of its own."""

    health: Health
    address: str
    port: int | None

    @property
    def target(self) -> str:
        """Address and port, as messages name them."""
        return endpoint(self.address, self.port)

    @property
    def identity(self) -> str:
        """The same on every balancer with this declaration."""
        return f"{self.health.type} {self.target} {self.health.path} {self.health.host}"


class Asker(NamedTuple):
    """A backend of a service that a check is made for."""

    place: Place
    #: Of the backend.
    name: str
    #: Where connections reach it; the port is None where they keep the one that the client asked for.
    address: str
    port: int | None
    slow_start_s: float


def questions(services: Sequence[Service]) -> dict[Question, list[Asker]]:
    """Every check, and whom it is made for. Backends that are drained or disabled are asked as well: who puts them back
    wants to know how they are."""
    found: dict[Question, list[Asker]] = {}
    plain: dict[Health, Health] = {}
    for service in services:
        if service.health is None:
            continue
        # Of ten thousand services most ask in the same way: one object each saves their comparison.
        health = plain.get(service.health)
        if health is None:
            health = plain.setdefault(service.health, _without_consequences(service.health))
        for question, asker in _of(service, health, service.health.slow_start_s):
            found.setdefault(question, []).append(asker)
    return found


def _without_consequences(health: Health) -> Health:
    """What is asked, without what is made of the answers."""
    return replace(health, slow_start_s=0.0, fail_open=False, on_down="keep")


def _of(service: Service, health: Health, slow_start_s: float) -> Iterator[tuple[Question, Asker]]:
    for backend in service.backends:
        port = backend.port or service.listen_port
        asker = Asker(_place(service, backend), backend.name, backend.address, port, slow_start_s)
        yield Question(health, health.address or backend.address, health.port or port), asker


def _place(service: Service, backend: Backend) -> Place:
    return Place(service.name, backend.address, backend.port)
