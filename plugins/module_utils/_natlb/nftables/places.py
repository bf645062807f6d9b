# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends with a limit (`max_connections`): a place for each connection, and where those go that find none.

    s.web.tcp          numgen inc mod 3 vmap { 0 : jump room…A, 1 : jump room…B, 2 : jump room…C }     the method picks
                       numgen random mod 24 vmap { … }                                                 again, elsewhere
                       jump room…A; jump room…B; jump room…C                                           whoever has room
                       [the same for the backups]; goto over_limit
    room.web.tcp.A     add @places.web.A/100 { the connection ct count 65535 } goto b.web.tcp.A

The set has as many places as the backend may have connections, and no element is added to a full one, by whichever
processor: the rule does not match then, and the next one is tried. So a limit is never exceeded, and a connection that
finds a backend full leaves no trace there. A count (`ct count over 100`, or connlimit of iptables) cannot do that. It
goes on to count a connection that was sent elsewhere, for as long as that one lives, and a backend would stay "full" of
connections of others.

`ct count` is there for the end of a connection: once a second the kernel takes the elements out whose connection is
closed or forgotten (nft_rhash_gc, nft_connlimit_gc). So places do not depend on who makes rules or is alive, and they
stay while weights, states and slots change: the set of a backend that is out stays as well.

A new connection may have the addresses and ports of one that ended a moment ago, whose place the kernel has not taken
back yet: UDP that goes on after its entry has expired or was deleted, as that of a backend that went out, a client that
uses its port again, and with `redispatch` a SYN that is repeated. The kernel would keep that place for as long as the
new connection lives, wherever that is: it knows both by the same addresses and ports. So before a choice is made

    ip saddr . … @places.web.A/100 jump room.web.tcp.A      it goes to the same backend, and has that place;
    ip saddr . … @places.web.A/100 drop                     if it must not go there, it waits until the place is free.

A rule that deletes the element would lose no packet, but kernels from before the autumn of 2023 never use the place of
one again that a packet has deleted (nft_rhash_delete).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import gcd
from typing import Callable

from ..model.entities import Backend, Service
from ..packets import Family, Protocol
from .names import attempt_chain, places_set
from .table import Table
from .text import Lines

#: A limit that no connection reaches: each has an element of its own.
_COUNTED = "ct count 65535"
#: A connection that finds its backend full picks so many times more, before it takes the first one with room: so others
#: share what one cannot take.
_AGAIN = 4
#: These picks know weights to this part of the largest one.
_STEPS = 8

#: A backend, and the verdict that leads there.
Way = tuple[Backend, str]


def declare(table: Table, service: Service) -> None:
    """The sets of all backends with a limit, also of those that get no connections now."""
    kind = f"type {table.address} . inet_service . {table.address} . inet_service . inet_proto"
    for backend in service.backends:
        if backend.max_connections and backend.family == table.family:
            table.declare("set", places_set(service, backend), kind, f"size {backend.max_connections}", "flags dynamic")


def attempt(table: Table, service: Service, protocol: Protocol, backend: Backend, chain: str) -> str:
    """The verdict that leads to a backend with a limit, by way of the `chain` that translates, and comes back if it is
    full."""
    added = f"add @{places_set(service, backend)} {{ {_key(table.family, protocol)} {_COUNTED} }}"
    rule = f"meta l4proto {protocol} {added} goto {chain}"
    return f"jump {table.chain(attempt_chain(service, protocol, backend), [rule])}"


def again(table: Table, service: Service, protocol: Protocol, way: Callable[[Backend], str]) -> Lines:
    """Rules for connections that still have a place, of the one before. `way` gives the verdict that leads to a
    backend."""
    if not service.limits_backends:
        return []
    # What redispatches has been refused there.
    gets = [*service.serving(table.family), *service.stand_ins(table.family)]
    able = set() if protocol == "tcp" and service.redispatch else {b.key for b in gets}
    limited = [b for b in service.backends if b.max_connections and b.family == table.family]
    has = f"meta l4proto {protocol} {_key(table.family, protocol)} @"
    return [f"{has}{places_set(service, b)} {way(b) if b.key in able else 'drop'}" for b in limited]


def _key(family: Family, protocol: Protocol) -> str:
    return f"{family} saddr . {protocol} sport . {family} daddr . {protocol} dport . meta l4proto"


def choice(slots: Sequence[Way], first: str, pick_again: Callable[[int, int], str]) -> Lines:
    """Rules that lead to a backend with room, and go on where there is none. `first` picks one of the slots, and
    `pick_again` picks one of so many, for the first, second … time."""
    ways = list(dict.fromkeys(slots))
    rules = [_picked(first, slots)] if len(ways) > 1 else []
    # With two backends the other one is what is left.
    again = weighted(ways) if len(ways) > 2 else []
    rules += [_picked(pick_again(len(again), time), again) for time in range(1, _AGAIN + 1) if again]
    for backend, verdict in ways:
        rules.append(verdict)
        if not backend.max_connections:
            break
    return rules


def when_full(table: Table, service: Service, protocol: Protocol) -> str:
    """What a connection gets when every backend is full. A place may be free that the kernel has not taken back yet, so
    a SYN is refused only when it comes again."""
    if service.when_empty == "drop":
        return "drop"
    return f"goto {table.over_limit() if protocol == 'tcp' else table.refuse()}"


def _picked(pick: str, slots: Sequence[Way]) -> str:
    entries = ", ".join(f"{index} : {verdict}" for index, (_backend, verdict) in enumerate(slots))
    return f"{pick} vmap {{ {entries} }}"


def weighted(ways: Sequence[Way]) -> list[Way]:
    """Each as often as its weight wants it, roughly."""
    gets = [backend.weight * backend.share for backend, _verdict in ways]
    times = [max(1, round(_STEPS * get / max(gets))) for get in gets]
    divisor = reduce(gcd, times)
    return [way for way, count in zip(ways, times) for _time in range(count // divisor)]
