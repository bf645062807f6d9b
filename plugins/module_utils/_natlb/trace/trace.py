# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb trace`: follows a connection that a client would open, from its arrival to the backend and back.

Everything is told from what the kernel holds now: rules of natlb and of others, routes, limits, tracked connections.
Nothing is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from ..errors import HostError
from ..firewalls import foreign, forward
from ..firewalls.forward_path import elsewhere
from ..firewalls.obstacles import Place
from ..firewalls.walk import Packet
from ..host import nf_tables, proc
from ..host.routes import Routes
from ..host.store import DEFAULT_PATHS, Paths
from ..model.choices import Variant
from ..model.effective import effective_backends
from ..model.entities import Backend, Config, Service
from ..nftables.source_nat import hairpin_sources
from ..plan import apply
from ..plan import request as requests
from ..plan.apply import Plan
from ..plan.stale_flows import Frontends
from . import bridged, contact, decision, ownership, passage, way
from .question import Question
from .steps import Step, Trace
from .way import Way

#: Our translation of targets: chains at prerouting come before it or behind it.
_TRANSLATED_AT = -100
_TRACKED_AT = -200
_LIVE_RULES = "the live rules are not those that were declared"


def trace(
    question: Question,
    interface: str = "",
    ask: bool = True,
    paths: Paths = DEFAULT_PATHS,
    iptables_variant: Variant | None = None,
) -> Trace:
    """All steps up to the first that stops the connection. Raises `HostError` where the host cannot be read.

    `interface` is where the client comes in; by default where the route back to it leads. With `ask` a backend is asked
    whether it answers.
    """
    if os.geteuid() != 0:
        raise HostError("only root may read the rules of this host (become: true)")
    request, _warnings = requests.restored(paths, iptables_variant)
    return _Tracing(question, apply.make_plan(request), interface, ask).traced()


class _Tracing:
    """One connection, on this host as it is."""

    def __init__(self, question: Question, plan: Plan, interface: str, ask: bool) -> None:
        self._question, self._plan, self._ask = question, plan, ask
        self._config: Config = plan.laid.live
        self._interface = interface
        self._chains = nf_tables.base_chains()
        self._routes = Routes()
        self._frontends = Frontends(self._config, question.protocol, proc.local_addresses())
        self._places = list(foreign.places(self._chains, plan.engine))

    def traced(self) -> Trace:
        question = self._question
        trace = Trace(str(question))
        arrival = way.arrival(question, self._interface)
        self._interface = arrival.interface
        if not trace.take(arrival.steps) or not trace.take([*self._own_rules(), decision.room()]):
            return trace
        first = self._first()
        if not trace.take(list(self._before(first))):
            return trace
        service, step = decision.addressed(question, self._frontends, self._config.services, self._interface)
        if not trace.take([step]) or service is None:
            return trace
        if not trace.take([*ownership.target(question, self._interface)]):
            return trace
        if not trace.take(list(decision.admission(question, service, self._frontends))):
            return trace
        full, told = decision.limits(service, question.family, self._config.services)
        backends, step = decision.chosen(question, service, self._plan.engine)
        if full.intersection(backend.key for backend in backends):
            backends, step = decision.with_room(question, service, full)
        if not trace.take([*self._standing(service), *told, step]):
            return trace
        trace.take(list(self._onward(service, backends, first)))
        return trace

    def _own_rules(self) -> Iterator[Step]:
        transaction = self._plan.transaction.kind
        if transaction == "none":
            yield Step("rules", "ok", f"those of the last run ({self._plan.engine.title})")
        elif transaction == "replace":
            yield Step("rules", "stops", "natlb's rules are gone", "natlb apply")
        else:
            yield Step("rules", "may", _LIVE_RULES, "natlb apply")

    def _standing(self, service: Service) -> Iterator[Step]:
        laid = self._plan.laid
        declared = next(item for item in self._plan.request.config.services if item.name == service.name)
        return decision.standing(effective_backends(declared, laid.overrides, laid.findings))

    # -- before the translation ----------------------------------------------------------------------------------------

    def _first(self) -> Packet:
        """The client's first packet, as it comes in."""
        question = self._question
        inside = frozenset({self._interface} if self._interface else ())
        return Packet(
            owners=(),
            family=question.family,
            protocol=question.protocol,
            state="new",
            dnat=False,
            inside=inside,
            outside=frozenset(),
            source=question.client,
            target=question.target,
            port=question.port,
            not_source=elsewhere(self._routes.ways, inside),
            local=question.target in proc.local_addresses(),
        )

    def _before(self, first: Packet) -> Iterator[Step]:
        if not self._interface:
            return
        untold = replace(first, state="")
        arriving = [place for place in self._places if place.hook in ("ingress", "prerouting")]
        early = [place for place in arriving if self._sees(place) and place.priority <= _TRACKED_AT]
        late = [p for p in arriving if self._sees(p) and _TRACKED_AT < p.priority <= _TRANSLATED_AT]
        yield from passage.at("prerouting", "its first packet", early, untold)
        yield from passage.at("prerouting", "its first packet", late, first)

    def _sees(self, place: Place) -> bool:
        if place.family == "bridge":
            return False
        return place.hook != "ingress" or self._interface in place.devices

    # -- after it ------------------------------------------------------------------------------------------------------

    def _onward(self, service: Service, backends: list[Backend], first: Packet) -> Iterator[Step]:
        """All that is left of the way. Where several backends may be chosen, each of them has to be reached."""
        if self._interface:
            yield way.forwards(self._question)
        told: set[Step] = set()
        for backend in backends:
            for step in self._to(service, backend, first):
                if step not in told:
                    told.add(step)
                    yield step

    def _to(self, service: Service, backend: Backend, first: Packet) -> Iterator[Step]:
        question = self._question
        port = backend.port_at(question.port)
        route = way.to_backend(question, backend.address, self._interface, service.mark_to(backend))
        yield from route.steps
        yield decision.seen_as(question, service, backend, route.source, self._is_hairpin(service, backend))
        if route.here:
            # /proc has no list of listeners of SCTP.
            if question.protocol != "sctp":
                yield way.own(backend.address, port, question.protocol)
            return
        yield from ownership.source(question, service, backend, route)
        yield from way.loopback(question, route)
        if self._interface:
            yield from self._forwarded(backend, port, first, route)
            yield from way.mtu(question, self._interface, route)
            yield from way.back(question, backend.address, route, self._interface)
            if route.interface == self._interface:
                yield from bridged.steps(question, backend.address, self._interface)
        if self._ask:
            yield contact.asked(backend.address, port, question.protocol)

    def _is_hairpin(self, service: Service, backend: Backend) -> bool:
        if service.source_nat.of(self._question.client, backend.address).kind != "none":
            return False
        near = hairpin_sources(backend.address, self._plan.around.connected)
        return decision.is_within(self._question.client, near)

    def _forwarded(self, backend: Backend, port: int, first: Packet, route: Way) -> Iterator[Step]:
        outside = frozenset({route.interface})
        there = replace(first, dnat=True, target=backend.address, port=port, outside=outside, local=False)
        answer = replace(
            there,
            state="established",
            inside=outside,
            outside=first.inside,
            source=backend.address,
            target=self._question.client,
            port=None,
            not_source=(),
            not_target=(),
        )
        behind = [p for p in self._places if p.hook == "prerouting" and p.priority > _TRANSLATED_AT and self._sees(p)]
        chains = list(forward.everyones(self._chains))
        yield from passage.at("prerouting", "its translated packet", behind, replace(there, outside=frozenset()))
        yield from passage.forward("forward", "its first packet", chains, there)
        leaving = [place for place in self._places if place.hook == "postrouting"]
        yield from passage.at("postrouting", "its first packet", leaving, there)
        raw = [p for p in self._places if p.hook == "prerouting" and p.priority <= _TRACKED_AT and p.family != "bridge"]
        yield from passage.at("answer", "the answer", raw, replace(answer, state="", outside=frozenset()))
        yield from passage.forward("answer", "the answer", chains, answer)
