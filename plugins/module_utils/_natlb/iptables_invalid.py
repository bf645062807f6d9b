# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of backends that iptables must not let pass untranslated; the reason stands in `nftables_filter.py`."""

from __future__ import annotations

from collections.abc import Sequence

from .backend_ports import backend_ports
from .dispatch import Item, Range, Tree, build, chain_name, cidr, number_range, ports_text
from .iptables_origin import merged
from .iptables_service import Tables
from .model import PROTOCOLS, Service

#: What enters the chain that drops them.
_STATE = "-m conntrack --ctstate INVALID"
#: The first packet to come by of a connection whose first one took another way: it may pass.
_ANSWER = "-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK -j RETURN"


def add_invalid(tables: Tables, services: Sequence[Service]) -> list[str]:
    """The chains that drop them; returns the rules that lead there. By -g, so that no rule behind these answers those
    that are left: what is late of a client that is served would be refused in the middle of its connection."""
    places: dict[str, list[tuple[Range, Range]]] = {}
    for (protocol, address), ranges in backend_ports(services, tables.family).items():
        places.setdefault(protocol, []).extend((number_range(address), ports) for ports in ranges)
    if not places:
        return []
    name = chain_name("", "i")
    jumps = [_ANSWER] if "tcp" in places else []
    for protocol in (protocol for protocol in PROTOCOLS if protocol in places):
        tree = Tree(
            ("", "i", protocol), tables.bits, f"-p {protocol} -m {protocol} --sport {{}}".format, "-s {}".format
        )
        items = [
            Item(ports, block, (_drop(tables, protocol, block, ports),)) for block, ports in merged(places[protocol])
        ]
        for chain, rules in build(tree, sorted(items, key=lambda item: (item.addresses, item.ports))).items():
            tables.chains["filter", chain] = rules
        jumps.append(f"-p {protocol} -j {tree.root}")
    tables.chains["filter", name] = jumps
    return [f"{_STATE} -g {name}"]


def _drop(tables: Tables, protocol: str, block: Range, ports: Range) -> str:
    return f"-s {cidr(block, tables.bits)} -p {protocol} -m {protocol} --sport {ports_text(ports)} -j DROP"
