# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The marks of packets on their way to backends; see `model/marks.py`.

    marks, marks_output   ct direction original ct status dnat jump marks_of_services
    marks_of_services     meta l4proto tcp ct original ip daddr . … vmap @marked
    marks_by…             ip daddr . meta l4proto . th dport vmap @marked_backends/…; meta mark set …

These base chains are met right behind the translation, before a packet is routed, and by every packet: nothing has to
be remembered for a connection. Services without a mark are looked up as well, since one may stand before others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..model.entities import Service, protocol_number
from ..model.marks import ALL, Mark
from ..model.ranges import Range, apart
from ..model.spelling import ports_text
from ..packets import Family
from ..ruleset.names import digest
from . import origin
from .table import Table
from .text import Lines

#: All chains that translate destinations, whatever their own priority is, are run at that of `dstnat`, -100
#: (nf_nat_core.c).
_BEHIND_NAT = -99


def add_marks(table: Table, services: Sequence[Service], families: Collection[Family]) -> None:
    """What marks packets, in the `families` where there are marked services."""
    if table.family not in families:
        return
    for service in services:
        verdict = _verdict(table, service)
        backends = [backend for backend in service.backends if backend.family == table.family]
        for frontend in table.frontends(service):
            origin.add_frontend(table, "marked", frontend, backends, verdict)
    protocols = sorted({f.protocol for service in services for f in service.frontends() if f.family == table.family})
    chain = table.chain("marks_of_services", origin.look_ups(table, "marked", protocols))
    rules = [f"ct direction original ct status dnat jump {chain}"]
    table.base("marks", f"type filter hook prerouting priority {_BEHIND_NAT}; policy accept;", rules)
    # Of this type a changed mark changes the way of the host's own packets.
    table.base("marks_output", f"type route hook output priority {_BEHIND_NAT}; policy accept;", rules)


def _verdict(table: Table, service: Service) -> str:
    """Where packets of a service go."""
    rules = _by_backend(table, service)
    if service.mark is not None:
        rules.append(_sets(service.mark))
    if not rules:
        return "return"
    # Elements of intervals linger (see `delta.py`), so what they lead to keeps its name.
    name = f"marks_by/{digest(' '.join(rules))}" if service.is_exact else f"marks_by.{service.name}"
    return f"goto {table.chain(name, rules)}"


def _by_backend(table: Table, service: Service) -> Lines:
    """The rule that asks for the backend, by a map of all services that have the same."""
    places: dict[tuple[str, int, Mark], list[Range]] = {}
    for frontend in table.frontends(service) if service.is_marked else ():
        for backend in service.backends:
            mark = service.mark_to(backend) if backend.mark else None
            if mark is not None and backend.family == table.family:
                place = backend.address, protocol_number(frontend.protocol), mark
                places.setdefault(place, []).append(backend.ports_at(frontend.low, frontend.high))
    if not places:
        return []
    # The kernel takes no elements that overlap.
    whole = [(place, ports) for place, found in places.items() for ports in apart(found)]
    elements = {
        f"{address} . {protocol} . {ports_text(*ports)}": f"goto {_chain(table, mark)}"
        for (address, protocol, mark), ports in whole
    }
    # Another list is another map, see `ServiceTable.guards`.
    name = f"marked_backends/{digest(' '.join(f'{key} {verdict}' for key, verdict in elements.items()))}"
    interval = ["flags interval"] if any(low != high for _place, (low, high) in whole) else []
    declaration = (f"type {table.address} . inet_proto . inet_service : verdict", *interval)
    table.declare("map", name, *declaration).update(elements)
    return [f"{table.family} daddr . meta l4proto . th dport vmap @{name}"]


def _chain(table: Table, mark: Mark) -> str:
    return table.chain(f"mark_to.{mark.value:#x}_{mark.mask:#x}", [_sets(mark)])


def _sets(mark: Mark) -> str:
    kept = "" if mark.mask == ALL else f"meta mark & {mark.mask ^ ALL:#010x} | "
    return f"meta mark set {kept}{mark.value:#010x}"
