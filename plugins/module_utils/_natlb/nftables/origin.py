# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Of which service a connection is, as a packet shows it behind the translation of its destination.

A connection is known as ours by its original destination. It is looked up in the same order, and by the same key, as
its first packet was for a backend: so of two services that share an address and port up to the interface each
connection is of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model.entities import Backend, Frontend, protocol_number
from ..model.ranges import Range, apart
from ..model.spelling import ports_text
from ..packets import Protocol
from .table import FrontendMap, Table, in_order, map_of
from .text import Lines

_ORIGINAL = "ct original {family} daddr . meta l4proto . ct original proto-dst"
#: A `*` does not show in the original destination, which may have been anybody's, and others may translate what comes
#: to an address of a network: there the backend tells as well.
_BEHIND = "meta l4proto . ct original proto-dst . {family} daddr . {protocol} dport"
#: What is looked up in the map of each kind of frontend.
_KEYS = {"service": _ORIGINAL, "node": _BEHIND, "network": "ct original {family} daddr . " + _BEHIND}
#: nft knows keys of five parts at most (TYPE_BITS in its include/datatype.h), so here each protocol has a map.
_NETWORK_OF_INTERFACE = "ct original {family} daddr . ct original proto-dst . {family} daddr . {protocol} dport"


def add_frontend(table: Table, kind: str, frontend: Frontend, backends: Sequence[Backend], verdict: str) -> None:
    """Let what `look_ups` of this kind finds for connections to a frontend be this verdict."""
    ports = ports_text(frontend.low, frontend.high)
    kinds, key = ["inet_proto", "inet_service"], [str(protocol_number(frontend.protocol)), ports]
    if frontend.address is not None:
        kinds, key = [table.address, *kinds], [frontend.address, *key]
    if frontend.interface is not None:
        kinds, key = ["ifname", *kinds], [f'"{frontend.interface}"', *key]
    each = map_of(frontend)
    name = each.named(kind)
    if each.kind == "service":
        declaration = [f"type {' . '.join(kinds)} : verdict", *["flags interval"] * each.spans]
        table.put("map", name, declaration, " . ".join(key), verdict)
        return
    if _has_a_map_each(each):
        name, kinds, key = f"{name}_{frontend.protocol}", _without_protocol(kinds), _without_protocol(key)
    declaration = [f"type {' . '.join([*kinds, table.address, 'inet_service'])} : verdict", "flags interval"]
    behind: dict[str, list[Range]] = {}
    for backend in backends:
        behind.setdefault(backend.address, []).append(backend.ports_at(frontend.low, frontend.high))
    for address, places in behind.items():
        # The kernel takes no elements that overlap, and two backends at one address may have ports in common.
        for low, high in apart(places):
            table.put("map", name, declaration, " . ".join([*key, address, ports_text(low, high)]), verdict)


def _without_protocol(parts: Sequence[str]) -> list[str]:
    """A key on a network and an interface: these two, the protocol, and the ports."""
    return [*parts[:2], *parts[3:]]


def look_ups(table: Table, kind: str, protocols: Sequence[Protocol]) -> Lines:
    """The rules that look a connection up in the maps of this kind."""
    return [
        f"meta l4proto {protocol} {_key(each).format(family=table.family, protocol=protocol)} vmap @{name}"
        for each in in_order(table)
        for protocol in protocols
        for name in [f"{each.named(kind)}_{protocol}" if _has_a_map_each(each) else each.named(kind)]
        if ("map", name) in table.declarations
    ]


def _key(each: FrontendMap) -> str:
    key = _NETWORK_OF_INTERFACE if _has_a_map_each(each) else _KEYS[each.kind]
    return f"meta iifname . {key}" if each.interface else key


def _has_a_map_each(each: FrontendMap) -> bool:
    """Whether each protocol has a map of its own."""
    return each.kind == "network" and each.interface
