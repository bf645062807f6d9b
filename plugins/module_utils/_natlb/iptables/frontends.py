# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees over frontends, as a packet is looked up in them before it is translated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, Literal, NamedTuple

from ..model.entities import Frontend, Service
from ..model.left_to_the_host import NOT_IN_NETWORKS, NOT_WILD
from ..model.ranges import Range, number_range
from ..model.spelling import is_everything
from ..packets import PROTOCOLS, Protocol
from .balanced import add_tree
from .dispatch import Item, Tree, ports_text
from .service import Tables

#: In place of the addresses of a frontend on every local address.
ANYWHERE: Range = (0, 0)


#: Rules for the frontends of a service in one protocol, without what tells the frontend.
Rules = Callable[[Service, Frontend], Sequence[str]]
#: Whether frontends are on addresses, on every local one, or on networks.
Place = Literal["address", "local", "network"]
#: What tells their trees apart, in the order to enter them.
LETTERS: Mapping[Place, str] = {"address": "", "local": "w", "network": "n"}


class Group(NamedTuple):
    """Frontends of one tree. Trees of a protocol are entered in the order of precedence (`model/precedence.py`): in one
    tree no two items are for one packet, unless both are of interfaces. On networks those come first in any case."""

    protocol: Protocol
    place: Place
    preferred: bool

    @property
    def suffix(self) -> str:
        """What the kind in the name of its tree ends with."""
        return LETTERS[self.place] + ("i" if self.preferred else "")


def group_of(tables: Tables, frontend: Frontend) -> Group:
    """The group of a frontend."""
    place = place_of(frontend)
    if place == "network":
        return Group(frontend.protocol, place, frontend.interface is not None)
    return Group(frontend.protocol, place, frontend in tables.territory.preferred)


def place_of(frontend: Frontend) -> Place:
    """Which trees of its protocol may have a frontend."""
    return "local" if frontend.address is None else "network" if frontend.is_network else "address"


def destination(frontend: Frontend) -> str:
    """What matches its addresses, as iptables-save prints it."""
    if frontend.address is None or is_everything(frontend.address):
        return ""
    length = "" if frontend.is_network else "/128" if frontend.family == "ip6" else "/32"
    return f"-d {frontend.address}{length}"


def in_order(groups: Iterable[Group]) -> list[Group]:
    """As their trees are to be entered."""
    places = [*LETTERS]
    return sorted(
        groups, key=lambda group: (places.index(group.place), not group.preferred, PROTOCOLS.index(group.protocol))
    )


def entering(tables: Tables, table: str, tree: Tree, place: Place) -> list[str]:
    """What a packet must meet to enter a tree of frontends at such a place, one of these; the tree leaves out the
    addresses that do not count.

    What this host sends itself is of a network only where it is for itself: its own connections to others are no
    clients'.
    """
    left = {"address": (), "local": NOT_WILD[tables.family], "network": NOT_IN_NETWORKS[tables.family]}[place]
    if left:
        returns = [f"-d {network} -j RETURN" for network in left]
        tables.chains[table, tree.root] = [*returns, *tables.chains[table, tree.root]]
    here = "-m addrtype --dst-type LOCAL "
    unicast = "! --dst-type BROADCAST " if tables.family == "ip" else ""
    passing = f"-m addrtype ! --src-type LOCAL {unicast}"
    return {"address": [""], "local": [here], "network": [passing, here]}[place]


def add_dispatch(tables: Tables, table: str, services: Iterable[Service], rules: Rules) -> list[str]:
    """Trees for each protocol, of addresses, of every local one, and of networks; returns the rules that enter them."""
    found: dict[Group, list[Item]] = {}
    for service in services:
        for frontend in tables.frontends(service):
            item = Item((frontend.low, frontend.high), _addresses(frontend), tuple(rules(service, frontend)))
            found.setdefault(group_of(tables, frontend), []).append(item)
    jumps = []
    for group in in_order(found):
        protocol = group.protocol
        name = ("", f"d{group.suffix}", protocol)
        tree = Tree(name, tables.bits, f"-p {protocol} -m {protocol} --dport {{}}".format, "-d {}".format)
        add_tree(tables, table, tree, sorted(found[group], key=_item_order), above=2)
        jumps += [f"-p {protocol} {met}-j {tree.root}" for met in entering(tables, table, tree, group.place)]
    return jumps


def _addresses(frontend: Frontend) -> Range:
    return number_range(frontend.address) if frontend.address else ANYWHERE


def _item_order(item: Item) -> tuple[Range, Range, tuple[str, ...]]:
    return item.addresses, item.ports, item.rules


def to_frontend(frontend: Frontend, action: str) -> str:
    """A rule for new connections to a frontend."""
    ports = ports_text((frontend.low, frontend.high))
    parts = [
        destination(frontend),
        f"-i {frontend.interface}" if frontend.interface else "",
        f"-p {frontend.protocol} -m {frontend.protocol} --dport {ports}",
        action,
    ]
    return " ".join(part for part in parts if part)
