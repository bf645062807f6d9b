# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the backends see: source NAT of the services' connections, in the chain `source_nat` of nftables.

`origin.py` tells of which service a connection is. Since Linux 5.7 a forwarded packet still shows there which way it
came in.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from ..model.entities import Service
from ..model.ranges import Range
from ..model.source_nat import SourceNat, by_network
from ..model.spelling import ports_text
from ..packets import PROTOCOLS
from ..ruleset.names import digest
from . import origin
from .table import Table, plain


def add_snat(table: Table, services: Sequence[Service], networks: Sequence[str]) -> None:
    """The chain `source_nat`, and all that it leads to. In the connected `networks` clients need hairpin NAT."""
    for service in services:
        verdict = f"goto {_snat_chain(table, service)}"
        backends = [backend for backend in service.backends if backend.family == table.family]
        for frontend in table.frontends(service):
            origin.add_frontend(table, "source_nat", frontend, backends, verdict)
    _add_hairpin(table, services, networks)
    protocols = sorted({f.protocol for service in services for f in service.frontends() if f.family == table.family})
    table.chains["source_nat"] = origin.look_ups(table, "source_nat", protocols)


def _snat_chain(table: Table, service: Service) -> str:
    """The chain of a service's connections, which many services may share."""
    says = service.source_nat
    maps = {"saddr": by_network(says.by_client, table.family), "daddr": says.at_backends(table.family)}
    if not any(maps.values()):
        return _chain_of(table, says.usual, f"source_nat.{service.name}")
    rules = [_look_up(table, service, field, answers) for field, answers in maps.items() if answers]
    rules.append(f"goto {_shared_chain(table, says.usual)}")
    # Elements of intervals linger (see `delta.py`), so what they lead to keeps its name.
    which = f"/{digest(' '.join(rules))}" if service.is_exact else f".{service.name}"
    return table.chain(f"source_nat_by{which}", rules)


def _look_up(table: Table, service: Service, field: str, answers: Sequence[tuple[str, SourceNat]]) -> str:
    """The rule that asks for the source or the destination, by a map of all services that have the same. That of many
    networks is named for the first of them, so that it stays where a network comes or goes."""
    verdicts = {snat: f"goto {_shared_chain(table, snat)}" for snat in dict.fromkeys(snat for _key, snat in answers)}
    elements = {plain(key): verdicts[snat] for key, snat in answers}
    content = digest(" ".join(f"{key} {verdict}" for key, verdict in elements.items()))
    name, flags = f"snat_backend/{content}", []
    if field == "saddr":
        name, flags = table.same.setdefault(content, f"snat_client.{service.name}"), ["flags interval"]
    table.declare("map", name, f"typeof {table.family} {field} : verdict", *flags).update(elements)
    return f"{table.family} {field} vmap @{name}"


def _shared_chain(table: Table, snat: SourceNat) -> str:
    """The same chain for all services that have the same addresses."""
    addresses = snat.of(table.family)
    which = addresses[0].replace(":", "_") if len(addresses) == 1 else digest(" ".join(addresses))
    return _chain_of(table, snat, f"source_nat_to.{which}")


def _chain_of(table: Table, snat: SourceNat, name: str) -> str:
    """The chain that gives a connection this source; `name` is that of one that translates to addresses.

    A connection keeps the client's port where that is free, and gets one by chance where it is not. A port that
    is always drawn by chance (fully-random) meets what a backend still remembers (TIME_WAIT) of others."""
    if snat.ports:
        return _chain_of_ports(table, snat, snat.ports, name)
    if snat.kind == "masquerade":
        return table.chain("source_nat_masquerade", ["masquerade"])
    if snat.kind == "none":
        rules = ["fib saddr type local masquerade"]
        rules.append(f"{table.family} saddr . {table.family} daddr @hairpin masquerade")
        # An accept would leave the source to every chain of nat behind ours; a translation to itself is one for good.
        everything = "::/0" if table.family == "ip6" else "0.0.0.0/0"
        return table.chain("source_nat_none", [*rules, f"snat {table.family} prefix to {everything}"])
    addresses = snat.of(table.family)
    target = addresses[0]
    if len(addresses) > 1:
        entries = ", ".join(f"{index} : {address}" for index, address in enumerate(addresses))
        target = f"numgen random mod {len(addresses)} map {{ {entries} }}"
    return table.chain(name, [f"snat {table.family} to {target}"])


def _chain_of_ports(table: Table, snat: SourceNat, ports: Range, name: str) -> str:
    """The same with a range of source ports. The client's is kept where it is one of them and free."""
    addresses = snat.of(table.family)
    end = f"/{ports[0]}-{ports[1]}"
    if len(addresses) > 1:
        # A rule with ports takes no address from a map.
        one = [_shared_chain(table, snat._replace(addresses=(address,))) for address in addresses]
        entries = ", ".join(f"{index} : goto {chain}" for index, chain in enumerate(one))
        return table.chain(name + end, [f"numgen random mod {len(one)} vmap {{ {entries} }}"])
    host = "".join(f"[{address}]" if table.family == "ip6" else address for address in addresses)
    does = f"snat {table.family} to {host}" if addresses else "masquerade to "
    name = name if addresses else "source_nat_masquerade"
    rules = [f"meta l4proto {protocol} {does}:{ports_text(*ports)}" for protocol in PROTOCOLS]
    return table.chain(name + end, rules)


def _add_hairpin(table: Table, services: Sequence[Service], networks: Sequence[str]) -> None:
    """Clients whose replies would not pass the balancer: those in a backend's own subnet, and it itself."""
    if not any(service.source_nat.shows_clients for service in services):
        return
    pair = f"typeof {table.family} saddr . {table.family} daddr"
    elements = table.declare("set", "hairpin", pair, "flags interval")
    for service in services:
        for backend in service.backends if service.source_nat.shows_clients else ():
            if backend.family == table.family:
                for source in hairpin_sources(backend.address, networks):
                    elements[f"{plain(source)} . {backend.address}"] = ""


def hairpin_sources(address: str, networks: Sequence[str]) -> list[str]:
    """The networks whose clients reach a backend without passing the balancer on the way back."""
    ip = ipaddress.ip_address(address)
    around = [net for net in map(ipaddress.ip_network, networks) if net.version == ip.version and ip in net]
    widest = min(around, key=lambda net: net.prefixlen, default=None)
    return [str(widest) if widest is not None else str(ipaddress.ip_network(address))]
