# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that another balancer has established, by nftables; see `model/takeover.py`.

postrouting   a segment of a backend that no connection is known of gets the address and port of its frontend
transit       it may pass

A segment of a client meets the slots of its service as a SYN does. If a slot is another backend's by now, that backend
answers with a RST, at which the kernel forgets the connection (nf_conntrack_proto_tcp.c: "If only reply is a RST").

forward            ct direction reply ct status & (dnat | assured) == dnat tcp flags … == rst goto takeover_lost
takeover_lost      the first such RST is dropped, and the client noted; the second one passes
takeover_…         a segment of a noted client, which it sends again, goes to the second slots
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..model import takeover
from ..model.entities import Service
from ..model.slots import declared_backends, second_slots
from ..packets import Family
from .hashes import HashTable
from .table import CLIENTS, Table
from .text import Lines

#: How long a client is noted. It sends a segment again after some 0.2 s and more, and asks whether the other end is
#: still there after 75 s (tcp_keepalive_intvl).
_NOTED_S = 120
#: A RST that answers the first segment that has come by. One that answers a SYN acknowledges it, this does not
#: (RFC 9293, section 3.5.2).
_UNKNOWN = "ct direction reply ct status & (dnat | assured) == dnat tcp flags & (syn | rst | ack) == rst"
#: `ct protocol` tells nft what the ports are of.
_OF_TCP = "ct original protocol tcp "
#: What is neither the beginning of a connection nor its end by force.
_UNDER_WAY = "tcp flags & (syn | rst) == 0x0"
#: What alone counts as a new connection.
BEGINS = "tcp flags & syn == syn "


def add_ways_back(table: Table, services: Sequence[Service], names: Collection[str]) -> Lines:
    """The map from backends to frontends of the services of these `names`; returns the rules that look it up."""
    source = f"{table.family} saddr . tcp sport"
    for service in services:
        for way in takeover.ways(service, table.frontends(service), table.family) if service.name in names else ():
            key = f"{way.backend.address} . {way.port}"
            data = f"{way.frontend.address} . {way.frontend.low}"
            table.put("map", "takeover", [f"typeof {source} : {source}"], key, data)
    if ("map", "takeover") not in table.declarations:
        return []
    return [f"{_UNDER_WAY} snat {table.family} to {source} map @takeover"]


def passes(table: Table, services: Sequence[Service], names: Collection[str]) -> Lines:
    """Rules of a filter that let such segments pass. A filter cannot look a map up, so they have a set."""
    source = f"{table.family} saddr . tcp sport"
    for service in services:
        for way in takeover.ways(service, table.frontends(service), table.family) if service.name in names else ():
            table.put("set", "taken_over", [f"typeof {source}"], f"{way.backend.address} . {way.port}")
    return [f"{_UNDER_WAY} {source} @taken_over accept"] if ("set", "taken_over") in table.declarations else []


def has_second(service: Service, family: Family, names: Collection[str]) -> bool:
    """Whether there is somebody else to ask about a connection that a backend does not know."""
    return service.name in names and len(declared_backends(service, family)) > 1


def second_table(service: Service, family: Family, first: HashTable, known: dict[str, HashTable]) -> HashTable:
    """The slots for a segment of a client that met the wrong backend. Whoever does not serve has a number here that is
    its own, behind those of `first`. `known` are the tables of other services by name; the slots go with the name."""
    declared, serving = declared_backends(service, family), {backend.key for backend in service.serving(family)}
    numbers, backends = list(range(len(declared))), list(first.backends)
    for index, backend in enumerate(declared):
        if backend.key not in serving:
            numbers[index] = len(backends)
            backends.append(backend)
    name = f"{first.name}.again"
    if name not in known:
        slots = [numbers[index] for index in second_slots(service, family)]
        known[name] = HashTable.of(name, backends, slots, first.widest)
    return known[name]._replace(backends=backends)


def again(table: Table) -> str:
    """What a segment has to match to meet the second slots."""
    return f"tcp flags & syn == 0x0 {table.family} saddr . tcp sport . {table.family} daddr . tcp dport @takeover_again"


def hold_back(table: Table, services: Sequence[Service], names: Collection[str]) -> Lines:
    """The chain that holds back what a wrong backend says of a client's segment; returns the rule that leads there."""
    for service in services:
        if has_second(service, table.family, names):
            for frontend in table.frontends(service):
                if frontend.protocol == "tcp":
                    kinds = f"type {table.address} . inet_service"
                    table.put("set", "takeover_frontends", [kinds], f"{frontend.address} . {frontend.low}")
    if ("set", "takeover_frontends") not in table.declarations:
        return []
    kinds = f"type {table.address} . inet_service . {table.address} . inet_service"
    table.declare("set", "takeover_again", kinds, f"size {CLIENTS}", "flags dynamic,timeout", f"timeout {_NOTED_S}s")
    target = f"ct original {table.family} daddr . ct original proto-dst"
    whole = f"ct original {table.family} saddr . ct original proto-src . {target}"
    rules = [
        f"{_OF_TCP}{whole} @takeover_again accept",
        # Where the set is full, the RST passes.
        f"{_OF_TCP}{target} @takeover_frontends add @takeover_again {{ {whole} }} drop",
    ]
    chain = table.chain("takeover_lost", rules)
    return [f"{_UNKNOWN} goto {chain}"]
