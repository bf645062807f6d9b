# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees over frontends, as a packet is looked up in them before it is translated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..model.entities import NOT_WILD, PROTOCOLS, Frontend
from ..model.ranges import Range
from .dispatch import Tree
from .service import Tables

#: In place of the addresses of a frontend on every local address.
ANYWHERE: Range = (0, 0)


class Group(NamedTuple):
    """Frontends of one tree. Trees of a protocol are entered in the order of precedence (`model/precedence.py`): in one
    tree no two items are for one packet, unless both are of interfaces."""

    protocol: str
    wildcard: bool
    preferred: bool

    @property
    def suffix(self) -> str:
        """What the kind in the name of its tree ends with."""
        return ("w" if self.wildcard else "") + ("i" if self.preferred else "")


def group_of(tables: Tables, frontend: Frontend) -> Group:
    """The group of a frontend."""
    return Group(frontend.protocol, frontend.address is None, frontend in tables.territory.preferred)


def in_order(groups: Iterable[Group]) -> list[Group]:
    """As their trees are to be entered."""
    return sorted(groups, key=lambda group: (group.wildcard, not group.preferred, PROTOCOLS.index(group.protocol)))


def enter_wildcard(tables: Tables, table: str, tree: Tree) -> str:
    """What a packet must meet to enter a tree of frontends on every local address; the tree leaves out the addresses
    that do not count."""
    left = [f"-d {network} -j RETURN" for network in NOT_WILD[tables.family]]
    tables.chains[table, tree.root] = [*left, *tables.chains[table, tree.root]]
    return "-m addrtype --dst-type LOCAL "
