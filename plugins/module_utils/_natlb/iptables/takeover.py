# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that another balancer has established, by iptables; see `model/takeover.py`.

nat     POSTROUTING → NATLB.post    → tree by source port and address → SNAT
filter  FORWARD     → NATLB.transit → NATLB..under.way
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..model import takeover
from ..model.entities import Service
from ..model.ranges import cidr, number_range
from .balanced import add_tree
from .dispatch import Item, Tree, chain_name
from .origin import merged
from .service import Tables

#: What is neither the beginning of a connection nor its end by force.
_UNDER_WAY = "-p tcp -m tcp --tcp-flags SYN,RST NONE"


def add_ways_back(tables: Tables, services: Sequence[Service]) -> None:
    """The tree that gives segments of backends the address and port of their frontend."""
    match = "-p tcp -m tcp --sport {}"
    items = []
    for way in _ways(tables, services):
        frontend = _frontend(way)
        place = f"-s {way.backend.address}/{tables.bits} {match.format(way.port)}"
        addresses = number_range(way.backend.address)
        items.append(Item((way.port, way.port), addresses, (f"{place} -j SNAT --to-source {frontend}",)))
    if items:
        tree = Tree(("", "t", "tcp"), tables.bits, match.format, "-s {}".format)
        add_tree(tables, "nat", tree, sorted(items, key=_order), above=2)
        tables.enter("nat", "POSTROUTING", "post", [f"{_UNDER_WAY} -j {tree.root}"])


def passes(tables: Tables, services: Sequence[Service], otherwise: str) -> list[str]:
    """Rules of a chain of the table filter that such segments return from; all others that may be such go on to the
    chain `otherwise`."""
    places = [(number_range(way.backend.address), (way.port, way.port)) for way in _ways(tables, services)]
    if not places:
        return []
    name = chain_name("", "under", "way")
    tables.chains["filter", name] = [
        f"-s {cidr(block, tables.bits)} -p tcp -m tcp --sport {low if low == high else f'{low}:{high}'} -j RETURN"
        for block, (low, high) in merged(places)
    ] + [f"-j {otherwise}"]
    return [f"{_UNDER_WAY} -g {name}"]


def _frontend(way: takeover.Way) -> str:
    """The frontend as SNAT names it."""
    host = f"[{way.frontend.address}]" if way.frontend.family == "ip6" else way.frontend.address
    return f"{host}:{way.frontend.low}"


def _ways(tables: Tables, services: Sequence[Service]) -> Iterator[takeover.Way]:
    for service in services:
        if service.name in tables.takeover:
            yield from takeover.ways(service, tables.frontends(service), tables.family)


def _order(item: Item) -> tuple[object, ...]:
    return item.addresses, item.ports, item.rules
