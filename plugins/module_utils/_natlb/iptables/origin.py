# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds our translated connections by their original destination.

A `-m conntrack` match is expensive (50 ns with iptables-nft), and a connection meets several. So adjacent frontends
with the same action share a rule: ports of one address, and addresses with the same ports, in aligned blocks that hold
nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Callable, Optional

from ..model.entities import Frontend, Service
from ..model.ranges import Range, cidr, number_range
from ..packets import Protocol
from ..ruleset.names import digest
from .balanced import add_tree
from .dispatch import Item, Tree, chain_name, ports_text
from .frontends import Group, group_of, in_order
from .service import Tables

#: What is done with a frontend's connections, as the end of a rule.
Action = Callable[[Service, Frontend], Optional[str]]


def add_trees(
    tables: Tables,
    table: str,
    kind: str,
    services: Sequence[Service],
    action: Action,
    dear: bool = False,
    above: int = 1,
) -> list[tuple[Protocol, str]]:
    """Trees for each protocol, of addresses, of every local one, and of networks: (protocol, root) of each.

    `kind` begins their names. The rules speak of the original destination only; whoever enters a tree sees to the
    protocol. A frontend has no rule where its `action` is None. For `dear` see `Tree`; `above` is how many chains in a
    row lead to a root.
    """
    cells: dict[Group, dict[str, list[tuple[Range, Range]]]] = {}
    for service in services:
        for frontend in tables.frontends(service):
            what = action(service, frontend)
            if what is not None:
                addresses = number_range(frontend.address) if frontend.address else (0, 0)
                alike = cells.setdefault(group_of(tables, frontend), {})
                alike.setdefault(what, []).append((addresses, (frontend.low, frontend.high)))
    roots = []
    for group in in_order(cells):
        tree = Tree(
            ("", f"{kind}{group.suffix}", group.protocol),
            tables.bits,
            "-m conntrack --ctorigdstport {}".format,
            "-m conntrack --ctorigdst {}".format,
            dear,
        )
        bits = 0 if group.place == "local" else tables.bits
        items = [
            Item(ports, addresses, (f"{_match(addresses, ports, bits)} {what}",))
            for what, places in cells[group].items()
            for addresses, ports in merged(places)
        ]
        add_tree(tables, table, tree, sorted(items, key=_order), above)
        roots.append((group.protocol, tree.root))
    return roots


def behind_backends(tables: Tables, kind: str, service: Service, frontend: Frontend, action: str) -> str:
    """An action in the table filter for connections of one frontend alone. Where the original destination does not tell
    that they are its own, the backend does; the name of the chain for that begins with `kind`."""
    if tables.territory.shows(frontend):
        return action
    behind = [
        (backend.address, ports_text(backend.ports_at(frontend.low, frontend.high)))
        for backend in service.backends
        if backend.family == tables.family
    ]
    rules = [f"-m conntrack --ctreplsrc {address} --ctreplsrcport {ports} {action}" for address, ports in behind]
    name = chain_name("", kind, digest("\n".join(rules)))
    tables.chains["filter", name] = rules
    return f"-j {name}"


def _match(addresses: Range, ports: Range, bits: int) -> str:
    """The match for a block of addresses (for every address, where they have no bits) and ports."""
    port = f"--ctorigdstport {ports_text(ports)}"
    if not bits:
        return f"-m conntrack {port}"
    block = cidr(addresses, bits)
    # iptables-save does not show the length of a single address.
    return f"-m conntrack --ctorigdst {block[: -len(f'/{bits}')] if addresses[0] == addresses[1] else block} {port}"


def _order(item: Item) -> tuple[int, Range, Range, tuple[str, ...]]:
    """The largest first: of connections by chance, most meet it."""
    size = (item.addresses[1] - item.addresses[0] + 1) * (item.ports[1] - item.ports[0] + 1)
    return -size, item.addresses, item.ports, item.rules


def merged(places: Iterable[tuple[Range, Range]]) -> list[tuple[Range, Range]]:
    """The same (addresses, ports), single addresses or aligned blocks of them, in as few aligned blocks as that takes
    where ports are joined first and addresses with the same ports then."""
    by_addresses: dict[Range, list[Range]] = {}
    for addresses, ports in places:
        by_addresses.setdefault(addresses, []).append(ports)
    by_ports: dict[Range, list[Range]] = {}
    for addresses, listed in by_addresses.items():
        for ports in _joined(listed):
            by_ports.setdefault(ports, []).append(addresses)
    return [(block, ports) for ports, blocks in by_ports.items() for block in _aligned(blocks)]


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """Ranges that touch or overlap, as one."""
    found: list[Range] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def _aligned(blocks: Iterable[Range]) -> list[Range]:
    """Blocks that do not overlap, two halves of a larger one joined as long as there are such."""
    found: list[Range] = []
    for block in sorted(blocks):
        found.append(block)
        while len(found) > 1:
            (low, middle), (after, high) = found[-2:]
            size = high - after + 1
            if middle + 1 != after or middle - low + 1 != size or low % (2 * size):
                break
            found[-2:] = [(low, high)]
    return found
