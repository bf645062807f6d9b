# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nftables keeps from passing untranslated.

A packet of a backend that connection tracking cannot place (it is late, or out of the window) is not translated back.
Whoever gets it (the client or, with source NAT, this host) knows nothing of it and resets the connection that it was
part of. So it is dropped; the ends send again what is missing.

The same packet of a client, to a frontend, would meet this host, where that address is its own, and be answered with a
reset; elsewhere it would be sent on untranslated. No listener of this host is meant by it, since whatever comes to a
frontend is translated. A FIN of a connection that nobody remembers gets no answer either: it cannot be told from a late
one of a connection that goes on.

A packet for another port of an address that no host has would go back to where it came from (see `model/unclaimed.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..model.backend_ports import backend_ports
from ..model.entities import Frontend, Service, protocol_number
from ..model.spelling import ports_text
from ..model.unclaimed import Unclaimed
from .redispatch import add_redispatch
from .table import Table, frontend_key, frontend_lookups, map_of
from .takeover import hold_back
from .text import Lines

#: Of a connection whose first packet took another way this is the first one to come by: it may pass.
_ANSWER = "tcp flags & (syn | ack) == syn | ack return"


def add_filter(
    table: Table,
    services: Sequence[Service],
    unclaimed: Unclaimed | None,
    spared: Collection[Frontend],
    names: Collection[str],
) -> None:
    """Base chains of filters: they drop what belongs to no connection, hold refusals back, and refuse what comes to
    `unclaimed` addresses. For `spared` see `model/redispatch.py`; `names` are of services that are taken over."""
    invalid = _invalid(table, services)
    refused = add_redispatch(table, services, spared)
    loops = _loops(table, unclaimed) if unclaimed else []
    hooks = {
        "input": [*invalid, *refused],
        "forward": [*hold_back(table, services, names), *invalid, *refused, *loops],
        "output": refused,
    }
    for hook, rules in hooks.items():
        if rules:
            # `output` is the name of the chain that translates.
            name = "answers" if hook == "output" else hook
            # Before `transit`, which would drop in silence what is refused here.
            table.base(name, f"type filter hook {hook} priority -1; policy accept;", rules)


def _invalid(table: Table, services: Sequence[Service]) -> Lines:
    for (protocol, address), ranges in backend_ports(services, table.family).items():
        for low, high in ranges:
            name = "backends" if low == high else "backends_range"
            declaration = [f"type {table.address} . inet_proto . inet_service", *(["flags interval"] * (low != high))]
            key = f"{address} . {protocol_number(protocol)} . {ports_text(low, high)}"
            table.put("set", name, declaration, key)
    rules = [
        f"{table.family} saddr . meta l4proto . th sport @{name} drop"
        for name in ("backends", "backends_range")
        if ("set", name) in table.declarations
    ]
    # A rule of a filter cannot look a frontend up in a map of the dispatch.
    for frontend in (item for service in services for item in table.frontends(service)):
        declaration, key = frontend_key(frontend, table.address)
        table.put("set", map_of(frontend).named("frontend"), declaration, key)
    rules += [
        f"{match}{key} @{each.named('frontend')} drop"
        for each, match, key in frontend_lookups(table)
        if ("set", each.named("frontend")) in table.declarations
    ]
    return [f"ct state invalid goto {table.chain('invalid', [_ANSWER, *rules])}"] if rules else []


def _loops(table: Table, unclaimed: Unclaimed) -> Lines:
    for address in unclaimed.addresses:
        table.put("set", "unclaimed", [f"type {table.address}"], address)
    # A backend may have such an address behind another balancer.
    return ["ct status dnat accept"] + [
        f'ct state new iifname "{name}" oifname "{name}" {table.family} daddr @unclaimed goto {table.refuse()}'
        for name in unclaimed.interfaces
    ]
