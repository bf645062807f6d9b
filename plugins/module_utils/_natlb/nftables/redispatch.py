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

from collections.abc import Sequence

from ..model import redispatch
from ..model.entities import Frontend, Service
from ..model.families import ports_text
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


def add_redispatch(table: Table, services: Sequence[Service]) -> Lines:
    """The chains that hold refusals back; returns the rule that leads there, none where no service redispatches."""
    found = redispatch.redispatching(services)
    if not found:
        return []
    for service in found:
        for frontend in service.frontends():
            if frontend.family == table.family:
                _add_frontend(table, service, frontend)
    frontends = table.chain("redispatch_frontend", _lookups(table))
    refusals = ["tcp flags & (syn | rst | ack) == rst | ack", _UNREACHABLE[table.family]]
    chain = table.chain("redispatch", [f"{refusal} goto {frontends}" for refusal in refusals])
    return [f"ct direction reply ct status & (dnat | assured) == dnat goto {chain}"]


def _add_frontend(table: Table, service: Service, frontend: Frontend) -> None:
    """Neither `*` nor an interface shows in the original destination; there the backend tells as well. Such an element
    may be that of several services, so it stands in a set; one in a map belongs to one service."""
    ports = ports_text(frontend.low, frontend.high)
    kinds, key = ([], []) if frontend.address is None else ([table.address], [frontend.address])
    kinds, key = [*kinds, "inet_service"], [*key, ports]
    shown = frontend.address is not None and frontend.interface is None
    if not shown:
        kinds += [table.address, "inet_service"]
    kind, name, goes = ("map", _name(frontend), " : verdict") if shown else ("set", _name(frontend), "")
    exact = shown and frontend.low == frontend.high
    declaration = [f"type {' . '.join(kinds)}{goes}", *([] if exact else ["flags interval"])]
    table.declare(kind, name, *declaration)
    if not redispatch.has_choice(service, table.family):
        return
    if shown:
        table.put(kind, name, declaration, " . ".join(key), f"goto {_CLIENT}")
        return
    for backend in service.backends:
        if backend.family == table.family:
            behind = [*key, backend.address, str(backend.port or ports)]
            table.put(kind, name, declaration, " . ".join(behind))


def _name(frontend: Frontend) -> str:
    if frontend.address is None:
        return "redispatch_node"
    if frontend.interface is not None:
        return "redispatch_interface"
    return "redispatch" if frontend.low == frontend.high else "redispatch_range"


def _lookups(table: Table) -> Lines:
    to = f"ct original {table.family} daddr . "
    behind = f" . ct reply {table.family} saddr . ct reply proto-src"
    keys = {
        "redispatch": f"{to}ct original proto-dst",
        "redispatch_range": f"{to}ct original proto-dst",
        "redispatch_interface": f"{to}ct original proto-dst{behind}",
        "redispatch_node": f"ct original proto-dst{behind}",
    }
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
