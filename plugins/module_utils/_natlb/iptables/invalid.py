# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of backends, and of clients, that iptables must not let pass untranslated; see `nftables/filter.py`."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.backend_ports import backend_ports
from ..model.entities import Service
from ..model.ranges import Range, cidr, number_range
from ..packets import PROTOCOLS, Protocol
from .balanced import add_tree
from .dispatch import Item, Tree, chain_name, ports_text
from .frontends import ANYWHERE, LETTERS, Place, entering, place_of
from .origin import merged
from .service import Tables

#: What enters the chain that drops them.
_STATE = "-m conntrack --ctstate INVALID"
#: The first packet to come by of a connection whose first one took another way: it may pass.
_ANSWER = "-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j RETURN"


def add_invalid(tables: Tables, services: Sequence[Service]) -> list[str]:
    """The chains that drop them; returns the rules that lead there. By -g, so that no rule behind these answers those
    that are left: what is late of a client that is served would be refused in the middle of its connection."""
    jumps = [*_from_backends(tables, services), *_to_frontends(tables, services)]
    if not jumps:
        return []
    rules = [jump for _protocol, jump in jumps]
    name = chain_name("", "i")
    tables.chains["filter", name] = [_ANSWER, *rules] if any(protocol == "tcp" for protocol, _jump in jumps) else rules
    return [f"{_STATE} -g {name}"]


def _from_backends(tables: Tables, services: Sequence[Service]) -> list[tuple[Protocol, str]]:
    """By protocol."""
    places: dict[Protocol, list[tuple[Range, Range]]] = {}
    for (protocol, address), ranges in backend_ports(services, tables.family).items():
        places.setdefault(protocol, []).extend((number_range(address), ports) for ports in ranges)
    jumps = []
    for protocol in (protocol for protocol in PROTOCOLS if protocol in places):
        match = f"-p {protocol} -m {protocol} --sport {{}}"
        tree = Tree(("", "i", protocol), tables.bits, match.format, "-s {}".format)
        items = [
            Item(ports, block, (f"-s {cidr(block, tables.bits)} {match.format(ports_text(ports))} -j DROP",))
            for block, ports in merged(places[protocol])
        ]
        add_tree(tables, "filter", tree, sorted(items, key=_order), above=3)
        jumps.append((protocol, f"-p {protocol} -j {tree.root}"))
    return jumps


def _to_frontends(tables: Tables, services: Sequence[Service]) -> list[tuple[Protocol, str]]:
    """By protocol: trees of addresses, of every local one, and of networks."""
    places: dict[tuple[Place, Protocol], dict[str | None, list[tuple[Range, Range]]]] = {}
    for frontend in (item for service in services for item in service.frontends() if item.family == tables.family):
        by_interface = places.setdefault((place_of(frontend), frontend.protocol), {})
        addresses = number_range(frontend.address) if frontend.address else ANYWHERE
        by_interface.setdefault(frontend.interface, []).append((addresses, (frontend.low, frontend.high)))
    jumps = []
    for place, protocol in sorted(places, key=lambda key: ([*LETTERS].index(key[0]), PROTOCOLS.index(key[1]))):
        match = f"-p {protocol} -m {protocol} --dport {{}}"
        tree = Tree(("", f"f{LETTERS[place]}", protocol), tables.bits, match.format, "-d {}".format)
        items = []
        for interface, found in places[place, protocol].items():
            for block, ports in merged(found):
                whole = place == "local" or block == (0, 2**tables.bits - 1)
                where = "" if whole else f"-d {cidr(block, tables.bits)} "
                where += f"-i {interface} " if interface else ""
                items.append(Item(ports, block, (f"{where}{match.format(ports_text(ports))} -j DROP",)))
        add_tree(tables, "filter", tree, sorted(items, key=_order), above=3)
        jumps += [(protocol, f"-p {protocol} {met}-j {tree.root}") for met in entering(tables, "filter", tree, place)]
    return jumps


def _order(item: Item) -> tuple[Range, Range, tuple[str, ...]]:
    return item.addresses, item.ports, item.rules
