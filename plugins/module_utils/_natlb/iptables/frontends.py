# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees over frontends, as a packet is looked up in them before it is translated."""

from __future__ import annotations

from ..model.entities import NOT_WILD
from ..model.ranges import Range
from .dispatch import Tree
from .service import Tables

#: In place of the addresses of a frontend on every local address.
ANYWHERE: Range = (0, 0)


def enter_wildcard(tables: Tables, table: str, tree: Tree) -> str:
    """What a packet must meet to enter a tree of frontends on every local address; the tree leaves out the addresses
    that do not count."""
    left = [f"-d {network} -j RETURN" for network in NOT_WILD[tables.family]]
    tables.chains[table, tree.root] = [*left, *tables.chains[table, tree.root]]
    return "-m addrtype --dst-type LOCAL "
