# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transit traffic that nftables forwards if natlb turned forwarding on (`model/transit.py`)."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.entities import Config
from ..model.outbound import Egress
from ..model.spelling import ports_text
from ..model.transit import MULTICAST, Closed
from .table import Table
from .text import Lines


def add_chain(table: Table, config: Config, closed: Closed, passes: Lines) -> None:
    """Nearly all packets leave at the first rule; `passes` are rules that let others pass."""
    ways_in = [name for name in closed.interfaces if name not in closed.forwarding]
    rules = ["ct state established,related accept", "ct status dnat accept"]
    rules += passes
    rules += [f"{_egress_match(table, item)}accept" for item in config.egress if item.sources_of(table.family)]
    rules += [f'iifname "{name}" oifname "{name}" accept' for name in closed.bridges]
    between = f"iifname {_set(ways_in)} oifname {_set(closed.interfaces)}"
    rules.append(f"{table.family} daddr != {MULTICAST[table.family]} {between} drop")
    if ways_in:
        table.base("transit", "type filter hook forward priority 0; policy accept;", rules)


def _set(names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{{ {quoted} }}"


def _egress_match(table: Table, item: Egress) -> str:
    match = f"{table.family} saddr {{ {', '.join(item.sources_of(table.family))} }} "
    if item.destinations:
        match += f"{table.family} daddr {{ {', '.join(item.destinations_of(table.family))} }} "
    if item.ways():
        match += f"oifname {_set(item.ways())} "
    if item.protocol and item.ports:
        match += f"{item.protocol} dport {{ {', '.join(ports_text(low, high) for low, high in item.ports)} }} "
    elif item.protocol:
        match += f"meta l4proto {item.protocol} "
    return match
