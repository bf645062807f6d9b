# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the service decides about a new connection: whether it is let in, which backend it goes to, and who the backend
sees."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from ..host import sysctl, tracked
from ..model import tracking
from ..model.admission import decisive
from ..model.effective import EffectiveBackend
from ..model.engine import Engine
from ..model.entities import Backend, Service
from ..model.hash_keys import BITS, Opening
from ..model.pins import decisive as decisive_pin
from ..model.slots import dealt_slots
from ..model.source_nat import decisive as decisive_snat
from ..model.spelling import ports_text
from ..model.values import endpoint
from ..packets import Family
from ..plan.backend_connections import BackendConnections
from ..plan.stale_flows import Frontends
from .question import Question
from .steps import Step

_NAMED = 5
_BY = {
    "round_robin": "by turn",
    "least_connections": "by turn, more often to those with few connections",
    "random": "by chance",
    "flow_hash": "by the client's port, which is not given",
}


def addressed(
    question: Question, frontends: Frontends, services: Sequence[Service], arrives: str
) -> tuple[Service | None, Step]:
    """The service whose frontend this is."""
    at = frontends.find(question.family, question.target, question.port, question.client)
    open_here = [item for item in at if item.interface in (None, arrives)]
    if open_here:
        return open_here[0], Step("service", "ok", open_here[0].name)
    target = f"{endpoint(question.target, question.port)}/{question.protocol}"
    if at:
        ways = " or ".join(str(item.interface) for item in at)
        said = f"{at[0].name} takes connections that come in by {ways}, not by {arrives or 'this host itself'}"
        return None, Step("service", "stops", said, f"say --interface {at[0].interface}, or declare the other one")
    passing = [] if arrives else frontends.find(question.family, question.target, question.port)
    if passing:
        said = (
            f"{passing[0].name} listens on a network: of what this host itself opens it takes only connections to "
            f"addresses of this host, and {question.target} is none"
        )
        remedy = f"ask for another client, or add {endpoint(question.target, question.port)} to listen"
        return None, Step("service", "stops", said, remedy)
    near = [item for item in services if any(str(listen.address) == question.target for listen in item.listens)]
    listens = ", ".join(f"{item.name} on {item.listens[0]}/{item.protocols[0]}" for item in near[:_NAMED])
    said = f"no service listens on {target}" + (f"; there are {listens}" if near else "")
    return None, Step("service", "stops", said, "declare it, or choose another target")


def admission(question: Question, service: Service, frontends: Frontends) -> Iterator[Step]:
    """The list of clients and the limits, as they stand for this one."""
    if service.allow_from or service.deny_from:
        network = decisive(service.allow_from, service.deny_from, question.client)
        if not service.admits(question.client):
            does = "refused" if service.when_denied == "reject" else "dropped"
            if network is None:
                said = f"allow_from of {service.name} has no network of {question.client}: it is {does}"
            else:
                said = f"deny_from of {service.name} has {network}: {question.client} is {does}"
            change = admitting(service.allow_from, service.deny_from, question.client)
            yield Step("admission", "stops", said, f"{change} of {service.name}")
            return
        said = f"allow_from has {network}" if network else f"deny_from has no network of {question.client}"
        yield Step("admission", "ok", said)
    most = service.max_connections_per_client
    if most:
        count = _connections(question, service, frontends)
        said = f"{question.client} has {count} of {most} connections (max_connections_per_client)"
        if count >= most:
            yield Step("admission", "stops", f"{said}: one more is refused", "close some, or raise the limit")
        else:
            yield Step("admission", "ok", said)
    rate = service.new_connections_per_second
    if rate:
        yield Step("admission", "fact", f"at most {rate} new connections a second (new_connections_per_second)")


def admitting(allow: Sequence[str], deny: Sequence[str], client: str) -> str:
    """The change of the lists that lets a client in, and as few others as can be. Pure."""
    alone = str(ipaddress.ip_network(client))
    if allow and alone not in deny:
        return f"add {client} to allow_from"
    # Where there is no allow_from, a first one would shut out everybody else; and no network may stand in both.
    gone = [network for network in deny if network == alone or (not allow and is_within(client, [network]))]
    change = f"take {', '.join(gone)} out of deny_from"
    left = [network for network in deny if network not in gone]
    decides = decisive(allow, left, client) if allow else None
    return change if not allow or decides in allow else f"{change}, and add {client} to allow_from"


def _connections(question: Question, service: Service, frontends: Frontends) -> int:
    mine = [
        item
        for item in tracked.of_client(question.family, question.protocol, question.client)
        if item.active and service in frontends.find(item.family, *item.target, item.client, not item.translated)
    ]
    return len(mine)


def room() -> Step:
    """Whether the kernel can remember one more connection."""
    count = sysctl.number("net/netfilter/nf_conntrack_count")
    most = sysctl.number("net/netfilter/nf_conntrack_max")
    said = f"{count} of {most} connections are tracked"
    if most and count >= most:
        return Step("tracking", "stops", f"{said}: the table is full, and new ones are dropped", "raise conntrack.max")
    warning = tracking.fill_warning(count, most)
    return Step("tracking", "may", warning) if warning else Step("tracking", "ok", said)


def limits(service: Service, family: Family, declared: Iterable[Service]) -> tuple[set[str], list[Step]]:
    """The keys of the backends that are full (`max_connections`), and how many connections each limited one has."""
    limited = [item for item in (*service.serving(family), *service.stand_ins(family)) if item.max_connections]
    known = BackendConnections(declared if limited else ())
    full, steps = set(), []
    for backend in limited:
        most = backend.max_connections
        count = sum(known.count([replace(service, backends=(backend,))], backend.address))
        said = f"{named(backend)} has {count} of {most} connections (max_connections)"
        full |= {backend.key} if count >= most else set()
        steps.append(Step("backend", "fact", f"{said}: it is full" if count >= most else said))
    return full, steps


def with_room(question: Question, service: Service, full: Collection[str]) -> tuple[list[Backend], Step]:
    """The same as `chosen`, where some backends are full."""
    groups = service.serving(question.family), service.stand_ins(question.family)
    for group in groups:
        found = [backend for backend in group if backend.key not in full]
        if found:
            names = ", ".join(map(named, found[:_NAMED])) + (", …" if len(found) > _NAMED else "")
            return found, Step("backend", "fact", f"one that has room: {names}")
    does = "refused" if service.when_empty == "reject" else "dropped"
    said = f"every backend of {service.name} is full: the connection is {does} (when_empty)"
    return [], Step("backend", "stops", said, "raise max_connections, or add a backend")


def chosen(question: Question, service: Service, engine: Engine) -> tuple[list[Backend], Step]:
    """The backends that the connection may go to: one, where a hash of the client says which."""
    serving = service.serving(question.family)
    if not serving:
        does = "refused" if service.when_empty == "reject" else "dropped"
        said = f"no backend of {service.name} can serve: the connection is {does} (when_empty)"
        return [], Step("backend", "stops", said, "natlb status shows why; bring one back")
    pin = decisive_pin(service.pins_to(question.family), question.client)
    pinned = next((item for item in serving if pin and item.name == pin.backend), None)
    if pin and pinned:
        return [pinned], Step("backend", "fact", f"{named(pinned)}, since pins has {pin.client}")
    dealt = dealt_slots(service, question.family)
    one = engine.picked(service, Opening(question.client, question.client_port, question.target))
    unless = ", unless affinity remembers another one" if service.affinity_s else ""
    if one is not None:
        said = f"{named(one)}, by the hash of {_hashed(service, question.family)} ({service.method}){unless}"
        return [one], Step("backend", "fact", said)
    whole = sum(dealt.values())
    shares = [f"{named(item)} {100 * dealt.get(item.key, 0) / whole:.0f} %" for item in serving[:_NAMED]]
    more = ", …" if len(serving) > _NAMED else ""
    return serving, Step("backend", "fact", f"{_BY[service.method]}: {', '.join(shares)}{more}{unless}")


def _hashed(service: Service, family: Family) -> str:
    key = service.hash_key(family)
    if key is None or key.field == "daddr":
        return "the address that was asked for"
    return "the client" if key.bits == BITS[family] else f"the first {key.bits} bits of the client"


def named(backend: Backend) -> str:
    where = endpoint(backend.address, backend.port)
    return where if backend.name in (backend.address, where) else f"{backend.name} ({where})"


def standing(backends: Sequence[EffectiveBackend]) -> Iterator[Step]:
    """Who of the service does not serve, and why."""
    out = [
        item
        for item in backends
        if item.effective.state != "active" or not item.effective.weight or item.effective.held
    ]
    for item in out[:_NAMED]:
        why = item.why() or f"declared {item.declared.state}"
        yield Step("backend", "fact", f"{named(item.declared)} gets no new connections: {why}")


def seen_as(question: Question, service: Service, backend: Backend, own: str, hairpin: bool) -> Step:
    """The source address that the backend sees."""
    snat = service.source_nat.of(question.client, backend.address)
    by = ", of the backend" if backend.snat else ""
    by = ", by snat_by_client" if decisive_snat(service.snat_by_client, question.client) else by
    by += f", from a port of {ports_text(*snat.ports)}" if snat.ports else ""
    if snat.kind == "masquerade":
        return Step("source", "fact", f"the backend sees {own or 'this host'} (masquerade{by})")
    if snat.kind == "address":
        return Step("source", "fact", f"the backend sees {' or '.join(snat.of(question.family))} (snat{by})")
    if hairpin:
        said = f"the backend sees {own or 'this host'}: it is in the client's network, and would answer past this host"
        return Step("source", "fact", said)
    said = f"the backend sees {question.client} (snat: none{by}), so its answers have to come back through this host"
    return Step("source", "may", said, "role natlb.netfilter.return_path on the backend sees to that")


def is_within(client: str, networks: Sequence[str]) -> bool:
    return any(ipaddress.ip_address(client) in ipaddress.ip_network(item) for item in networks)
