# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of others, where it was natlb that turned forwarding on: the host does not become a router for everybody.

Between the interfaces that there were then, nothing was forwarded before, so nothing but what is declared is forwarded
from then on. An interface that comes later (of Docker, of a VPN, of virtual machines) belongs to somebody who wants
its packets forwarded and has rules of their own: packets that come or go by it are left alone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from .dispatch import chain_name
from .entities import Config, Egress, ports_text
from .iptables_service import Tables
from .nftables_table import Table

#: What a run may do with them.
CHOICES = ("drop", "accept")
#: A host may route multicast without forwarding unicast.
_MULTICAST = {"ip": "224.0.0.0/4", "ip6": "ff00::/8"}
ROOT = chain_name("others")


@dataclass(frozen=True)
class Closed:
    """The interfaces of one family when its forwarding was turned on. Those in `forwarding` forwarded already what came
    in by them; on a bridge in `bridges`, frames go from port to port past the router, and with br_netfilter through the
    same rules."""

    interfaces: tuple[str, ...]
    forwarding: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()


def observe(family: str, get: Callable[[str], str | None], bridges: Iterable[str]) -> Closed:
    """The interfaces that there are now."""
    version = "ipv6" if family == "ip6" else "ipv4"
    names = interfaces()
    already = [name for name in names if get(f"net/{version}/conf/{name}/forwarding") == "1"]
    return Closed(tuple(names), tuple(already), tuple(sorted(set(bridges) & set(names))))


def interfaces() -> list[str]:
    return sorted(name for _unused, name in socket.if_nameindex() if name != "lo")


def dump(closed: Mapping[str, Closed]) -> dict[str, Any]:
    return {family: {key: list(value) for key, value in vars(item).items()} for family, item in closed.items()}


def parse(value: Any) -> dict[str, Closed]:
    """From a file that may be damaged: what cannot be read counts as not kept."""
    found = {}
    for family, item in value.items() if isinstance(value, Mapping) else ():
        if family in _MULTICAST and isinstance(item, Mapping) and _names(item.get("interfaces")):
            found[family] = Closed(*(_names(item.get(key)) for key in ("interfaces", "forwarding", "bridges")))
    return found


def _names(value: Any) -> tuple[str, ...]:
    return tuple(name for name in value if _is_name(name)) if isinstance(value, list) else ()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 16 and value.isprintable() and not set(value) & set(' "/*\\;')


# -- nftables --------------------------------------------------------------------------------------------------------


def add_chain(table: Table, config: Config, closed: Closed) -> None:
    """Nearly all packets leave at the first rule."""
    ways_in = [name for name in closed.interfaces if name not in closed.forwarding]
    rules = ["ct state established,related accept", "ct status dnat accept"]
    rules += [f"{_egress_match(table, item)}accept" for item in config.egress if item.sources_of(table.family)]
    rules += [f'iifname "{name}" oifname "{name}" accept' for name in closed.bridges]
    between = f"iifname {_set(ways_in)} oifname {_set(closed.interfaces)}"
    rules.append(f"{table.family} daddr != {_MULTICAST[table.family]} {between} drop")
    if ways_in:
        table.base("others", "type filter hook forward priority 0; policy accept;", rules)


def _set(names: Sequence[str]) -> str:
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"{{ {quoted} }}"


def _egress_match(table: Table, item: Egress) -> str:
    match = f"{table.family} saddr {{ {', '.join(item.sources_of(table.family))} }} "
    if ways(item):
        match += f"oifname {_set(ways(item))} "
    if item.protocol and item.ports:
        match += f"{item.protocol} dport {{ {', '.join(ports_text(low, high) for low, high in item.ports)} }} "
    elif item.protocol:
        match += f"meta l4proto {item.protocol} "
    return match


def ways(item: Egress) -> list[str]:
    """The interfaces by which an egress rule lets packets out; none where it names none."""
    if item.uplinks:
        return sorted({uplink.interface for uplink in item.uplinks})
    return [item.out_interface] if item.out_interface else []


# -- iptables --------------------------------------------------------------------------------------------------------


def enter_chains(tables: Tables, config: Config, closed: Closed, port_matches: Callable[[Egress], list[str]]) -> None:
    """In place of the jump from FORWARD that there is already, which this chain then makes first."""
    ways_in = [name for name in closed.interfaces if name not in closed.forwarding]
    if not ways_in:
        return
    out, into = chain_name("", "others", "out"), chain_name("", "others", "in")
    former = tables.jumps.get(("filter", "FORWARD"))
    rules = [f"-j {former.rpartition(' ')[2]}"] if former else []
    rules += ["-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN", "-m conntrack --ctstate DNAT -j RETURN"]
    for item in config.egress:
        for source in item.sources_of(tables.family):
            for way in ways(item) or [""]:
                for match in port_matches(item):
                    rules.append(" ".join(f"-s {source} {f'-o {way}' if way else ''} {match} -j RETURN".split()))
    rules += [f"-i {name} -o {name} -j RETURN" for name in closed.bridges]
    rules.append(f"! -d {_MULTICAST[tables.family]} -j {into}")
    tables.chains["filter", into] = [f"-i {name} -j {out}" for name in ways_in]
    tables.chains["filter", out] = [f"-o {name} -j DROP" for name in closed.interfaces]
    tables.enter("filter", "FORWARD", "others", rules)
