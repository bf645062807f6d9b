# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refusals that nftables holds back, so that the client's next SYN takes another backend; see `model/redispatch.py`.

    forward, input, output   ct direction reply ct status & (dnat | assured) == dnat goto redispatch
    redispatch               a RST that answers a SYN; ICMP that ends the attempt as one does
    redispatch_frontend      is it at a frontend that redispatches? It shows in the original destination
    redispatch_client        is its time over?

Of a connection that goes on only the first test is made, of a first packet half of it.

All but the elements of maps and sets depends on the declaration alone. So where a service is left with one backend,
elements go and no rule does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Optional

from ..model import redispatch
from ..model.entities import Frontend, Service
from ..model.ranges import Box, Range, apart, boxes_apart
from ..model.spelling import ports_text
from .table import Table
from .text import Lines

#: Clients whose attempts are known at a time. Those of more are refused as they would be without this.
CLIENTS = 65536

#: What ends an attempt as a RST does: nobody answers for the backend on its network.
_UNREACHABLE = {
    "ip": "icmp type destination-unreachable icmp code host-unreachable",
    "ip6": "icmpv6 type destination-unreachable icmpv6 code addr-unreachable",
}
#: `ct protocol` tells nft what the ports are of: the packet itself may be ICMP.
_OF_TCP = "ct original protocol tcp "
_CLIENT = "redispatch_client"
_NETWORK = "redispatch_network"

#: A set that tells by the backend as well, its declaration, and what its elements have beside the ports: the address of
#: the frontend, if it has one, and that of a backend.
_Behind = tuple[str, tuple[str, ...], tuple[str, ...], str]
#: Ports of frontends, by the port of a backend, or its shift where it has none.
_Ports = dict[tuple[Optional[int], int], list[Range]]


def add_redispatch(table: Table, services: Sequence[Service], spared: Collection[Frontend]) -> Lines:
    """The chains that hold refusals back; returns the rule that leads there, none where no service redispatches.

    Those of `spared` frontends pass, where their own service does not hold them back.
    """
    found = redispatch.redispatching(services)
    if not found:
        return []
    behind: dict[_Behind, _Ports] = {}
    for service in found:
        for frontend in table.frontends(service):
            _add_frontend(table, service, frontend, behind)
    for (name, kinds, address, backend), places in behind.items():
        for asked, at in boxes_apart(_boxes(places)):
            table.put("set", name, kinds, " . ".join([*address, ports_text(*asked), backend, ports_text(*at)]))
    _spare(table, services, spared)
    frontends = table.chain("redispatch_frontend", _lookups(table))
    refusals = ["tcp flags & (syn | rst | ack) == rst | ack", _UNREACHABLE[table.family]]
    chain = table.chain("redispatch", [f"{refusal} goto {frontends}" for refusal in refusals])
    return [f"ct direction reply ct status & (dnat | assured) == dnat goto {chain}"]


def _boxes(places: _Ports) -> Iterator[Box]:
    """Ports of frontends, each range with the ports of the backend."""
    for (port, shift), ranges in places.items():
        for low, high in apart(ranges):
            yield (low, high), ((port, port) if port else (low + shift, high + shift))


def _add_frontend(table: Table, service: Service, frontend: Frontend, behind: dict[_Behind, _Ports]) -> None:
    """Where the original destination does not show it (`Territory.shows`), the backend tells as well. Such an element
    may be that of several services, so it stands in a set; one in a map belongs to one service."""
    address = () if frontend.address is None else (frontend.address,)
    able = redispatch.has_choice(service, table.family)
    if table.territory.shows(frontend):
        _put(table, frontend, f"goto {_CLIENT}" if able else None)
        return
    kinds = f"type {' . '.join([*[table.address] * len(address), 'inet_service', table.address, 'inet_service'])}"
    name, declaration = "redispatch_interface" if address else "redispatch_node", (kinds, "flags interval")
    if frontend.is_network:
        # What networks have on one interface overlaps with what they have on another.
        name = _NETWORK + (f".{frontend.interface}" if frontend.interface else "")
    table.declare("set", name, *declaration)
    for backend in service.backends if able else ():
        if backend.family == table.family:
            places = behind.setdefault((name, declaration, address, backend.address), {})
            places.setdefault((backend.port, backend.shift), []).append((frontend.low, frontend.high))


def _put(table: Table, frontend: Frontend, verdict: str | None) -> None:
    """Add a frontend on an address to its map, which is declared even where there is no verdict yet."""
    name = "redispatch_range" if frontend.spans else "redispatch"
    declaration = [f"type {table.address} . inet_service : verdict", *(["flags interval"] if frontend.spans else [])]
    table.declare("map", name, *declaration)
    if verdict is not None:
        table.put("map", name, declaration, f"{frontend.address} . {ports_text(frontend.low, frontend.high)}", verdict)


def _spare(table: Table, services: Sequence[Service], spared: Collection[Frontend]) -> None:
    """Where a service does not redispatch, or has no choice just now."""
    for service in services if spared else ():
        if not (service.redispatch and redispatch.has_choice(service, table.family)):
            for frontend in table.frontends(service):
                if frontend in spared:
                    _put(table, frontend, "accept")


def _lookups(table: Table) -> Lines:
    to = f"ct original {table.family} daddr . "
    behind = f" . ct reply {table.family} saddr . ct reply proto-src"
    keys = {
        "redispatch": f"{to}ct original proto-dst",
        "redispatch_range": f"{to}ct original proto-dst",
        "redispatch_interface": f"{to}ct original proto-dst{behind}",
        "redispatch_node": f"ct original proto-dst{behind}",
    }
    networks = sorted(name for _kind, name in table.declarations if name.partition(".")[0] == _NETWORK)
    keys.update(dict.fromkeys(networks, f"{to}ct original proto-dst{behind}"))
    _add_client(table)
    found = []
    for name, key in keys.items():
        if ("map", name) in table.declarations:
            found.append(f"{_OF_TCP}{key} vmap @{name}")
        elif ("set", name) in table.declarations:
            found.append(f"{_OF_TCP}{key} @{name} goto {_CLIENT}")
    return found


def _add_client(table: Table) -> None:
    """What becomes of a refusal: it is dropped in the first seconds of the attempt, and passes later.

    Where a set is full, the rule that should add to it does not match, and the refusal passes.
    """
    client = f"ct original {table.family} saddr . ct original proto-src"
    for name, seconds in (("trying", redispatch.LIVES_S), ("tried", redispatch.REMEMBERED_S)):
        lines = [f"type {table.address} . inet_service", f"size {CLIENTS}", "flags dynamic,timeout"]
        table.declare("set", f"redispatch_{name}", *lines, f"timeout {seconds}s")
    rules = [
        f"{_OF_TCP}{client} @redispatch_trying drop",
        f"{_OF_TCP}{client} @redispatch_tried accept",
        f"{_OF_TCP}add @redispatch_tried {{ {client} }} add @redispatch_trying {{ {client} }} drop",
    ]
    table.chain(_CLIENT, rules)
