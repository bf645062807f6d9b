# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transit traffic that iptables forwards if natlb turned forwarding on (`model/transit.py`)."""

from __future__ import annotations

from itertools import product

from ..model.entities import Config
from ..model.transit import MULTICAST, Closed
from .dispatch import chain_name
from .egress import destination_matches, port_matches
from .service import Tables
from .takeover import passes

ROOT = chain_name("transit")


def enter_chains(tables: Tables, config: Config, closed: Closed) -> None:
    """In place of the jump from FORWARD that there is already, which this chain then makes first."""
    ways_in = [name for name in closed.interfaces if name not in closed.forwarding]
    if not ways_in:
        return
    out, into = chain_name("", "transit", "out"), chain_name("", "transit", "in")
    former = tables.jumps.get(("filter", "FORWARD"))
    rules = [f"-j {former}"] if former else []
    rules += ["-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN", "-m conntrack --ctstate DNAT -j RETURN"]
    for item in config.egress:
        outs = [f"-o {way}" for way in item.ways()] or [""]
        sources = [f"-s {source}" for source in item.sources_of(tables.family)]
        found = product(sources, destination_matches(item, tables.family), outs, port_matches(item))
        rules += [" ".join(" ".join((*matches, "-j RETURN")).split()) for matches in found]
    rules += [f"-i {name} -o {name} -j RETURN" for name in closed.bridges]
    rules += passes(tables, config.services, into)
    rules.append(f"! -d {MULTICAST[tables.family]} -j {into}")
    tables.chains["filter", into] = [f"-i {name} -j {out}" for name in ways_in]
    tables.chains["filter", out] = [f"-o {name} -j DROP" for name in closed.interfaces]
    tables.enter("filter", "FORWARD", "transit", rules)
