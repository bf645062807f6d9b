# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connections that another balancer has established, by nftables; see `model/takeover.py`.

postrouting   a segment of a backend that no connection is known of gets the address and port of its frontend
transit       it may pass
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ..model import takeover
from ..model.entities import Service
from .table import Table
from .text import Lines

#: What is neither the beginning of a connection nor its end by force.
_UNDER_WAY = "tcp flags & (syn | rst) == 0x0"
#: As `_UNDER_WAY`, of a packet to a frontend: what counts as a new connection and what does not.
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
