# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP and the connections that the kernel remembers.

A UDP client that keeps its socket keeps its tracked connection, and with it its backend, for as long as it goes on
sending: also after that backend is gone, or where it began before there was a service. Such entries are deleted, so
that the next packet chooses anew. TCP and SCTP are never cut: their peers notice by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import kernel
from .errors import HostError
from .kernel import Flow
from .model import FAMILIES, Config, Frontend, Service

Peer = tuple[str, int]


class Frontends:
    """Finds the service that a target address and port belong to."""

    def __init__(self, config: Config, protocol: str, local: set[str]) -> None:
        self._exact: dict[tuple[str, int], tuple[Frontend, Service]] = {}
        self._wide: list[tuple[Frontend, Service]] = []
        self._local = local
        for service in config.services:
            for frontend in service.frontends():
                if frontend.protocol != protocol:
                    continue
                if frontend.address is not None and frontend.low == frontend.high:
                    self._exact[(frontend.address, frontend.low)] = (frontend, service)
                else:
                    self._wide.append((frontend, service))

    def __bool__(self) -> bool:
        return bool(self._exact or self._wide)

    def find(self, family: str, target: str, port: int) -> tuple[Frontend, Service] | None:
        exact = self._exact.get((target, port))
        if exact is not None:
            return exact
        for frontend, service in self._wide:
            here = frontend.address == target or (frontend.address is None and target in self._local)
            if here and frontend.family == family and frontend.low <= port <= frontend.high:
                return frontend, service
        return None


def peers(service: Service, flow_port: int, states: Iterable[str]) -> set[Peer]:
    """Where connections to one port of a service may be answered from."""
    wanted = set(states)
    return {(b.address, b.port or flow_port) for b in service.backends if b.state in wanted}


def stale(flows: Iterable[Flow], before: Frontends, after: Frontends) -> list[Flow]:
    """The flows that must choose anew, one of each (target, answerer).

    Of a service that is declared: those that nobody behind it answers, drained backends counting as behind it. Of one
    that is no longer declared: those that one of its backends answers.
    """
    found: dict[tuple[str, int, str, int], Flow] = {}
    for flow in flows:
        answerer = (flow.answerer, flow.answerer_port)
        now = after.find(flow.family, flow.target, flow.target_port)
        if now is not None:
            # With no backend at all packets are refused, which deletes their entries by itself.
            gone = answerer not in peers(now[1], flow.target_port, ("active", "drained"))
        else:
            then = before.find(flow.family, flow.target, flow.target_port)
            gone = then is not None and answerer in peers(then[1], flow.target_port, ("active", "drained", "disabled"))
        if gone:
            found[(flow.target, flow.target_port, flow.answerer, flow.answerer_port)] = flow
    return list(found.values())


def forget_gone(previous: Config, config: Config) -> list[str]:
    """Delete stale UDP entries. Returns warnings; that conntrack(8) is missing is one, since the rules do stand."""
    local = kernel.local_addresses()
    before, after = Frontends(previous, "udp", local), Frontends(config, "udp", local)
    if not before and not after:
        return []
    try:
        for family in FAMILIES:
            for flow in stale(kernel.flows(family, "udp"), before, after):
                kernel.forget(flow)
    except HostError as error:
        return [f"UDP clients may stay with a backend that is gone until they pause for 30 s or longer: {error}"]
    return []
