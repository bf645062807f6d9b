# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source NAT of iptables in POSTROUTING for our own connections."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from ..model.entities import Frontend, Service
from ..model.ranges import Range, number_range
from ..model.source_nat import SourceNat, by_network
from ..packets import PROTOCOLS, family_of
from ..ruleset.names import digest
from . import source_tree
from .choice import Target, by_chance
from .dispatch import chain_name, ports_text
from .service import Tables

#: Without --random-fully: see `nftables/source_nat.py`, _snat_chain.
MASQUERADE = "-j MASQUERADE"


def snat_action(tables: Tables, service: Service, frontend: Frontend, networks: Sequence[str]) -> str:
    """What is done with a frontend's connections, once it is known by their original destination that they are ours.

    That does not show a `*` or an interface, and others may translate what comes to an address of a network; there the
    backend tells.
    """
    action = _of_service(tables, service, networks)
    if frontend.address is not None and frontend.interface is None and not frontend.is_network:
        return action
    ports = ports_text((frontend.low, frontend.high))
    name = chain_name(service.name, frontend.protocol, "out", ports.replace(":", "-"))
    tables.chains["nat", name] = [
        f"-d {backend.address}/{tables.bits} -p {frontend.protocol} -m {frontend.protocol} "
        f"--dport {ports_text(backend.ports_at(frontend.low, frontend.high))} {action}"
        for backend in service.backends
        if backend.family == tables.family
    ]
    return f"-j {name}"


def _of_service(tables: Tables, service: Service, networks: Sequence[str]) -> str:
    """The action of a service's source NAT: a target, or a jump to a chain that takes every packet."""
    says = service.source_nat
    clients, backends = by_network(says.by_client, tables.family), says.at_backends(tables.family)
    if not clients and not backends:
        return _snat(tables, says.usual, service, networks)
    answers = dict.fromkeys([says.usual, *(snat for _net, snat in clients), *(snat for _address, snat in backends)])
    actions = {snat: _snat_of_some(tables, snat, service, networks) for snat in answers}
    last = actions[says.usual]
    if backends:
        last = _tree(tables, "-d", [(f"{address}/{tables.bits}", actions[snat]) for address, snat in backends], last)
    return _tree(tables, "-s", [(network, actions[snat]) for network, snat in clients], last) if clients else last


def _tree(tables: Tables, side: str, places: Sequence[tuple[str, str]], otherwise: str) -> str:
    """A jump to what asks for one side of a connection: one tree of all services that have the same."""
    rules = {network: f"{side} {network} {action}" for network, action in places}
    name = ("", "by", digest("\n".join([*rules.values(), otherwise])))
    if ("nat", chain_name(*name)) not in tables.chains:
        tree = source_tree.build(name, tables.bits, rules, otherwise, side)
        tables.chains.update((("nat", chain), found) for chain, found in tree.items())
    return f"-j {chain_name(*name)}"


def _snat_of_some(tables: Tables, snat: SourceNat, service: Service, networks: Sequence[str]) -> str:
    """The same of some clients, with chains named for what they do."""
    if snat.kind == "none":
        rules = _hairpin(tables, service, networks)
        name = chain_name("", "as_is", digest("\n".join(rules)))
        tables.chains["nat", name] = rules
        return f"-j {name}"
    return _snat(
        tables, snat, service, networks, chain_name("", "to", digest(f"{snat.of(tables.family)} {snat.ports}"))
    )


def _snat(tables: Tables, snat: SourceNat, service: Service, networks: Sequence[str], name: str = "") -> str:
    """The action of one `snat`; `name` is that of a chain which chooses among addresses."""
    if snat.kind == "masquerade":
        return _to(tables, None, snat.ports)
    addresses = snat.of(tables.family)
    if len(addresses) == 1:
        return _to(tables, addresses[0], snat.ports)
    name = name or chain_name(service.name, "snat")
    if ("nat", name) not in tables.chains and snat.kind == "none":
        tables.chains["nat", name] = _hairpin(tables, service, networks)
    elif ("nat", name) not in tables.chains:
        chosen = by_chance(name, [(Target("", _to(tables, address, snat.ports)), 1) for address in addresses])
        tables.chains.update({("nat", chain): rules for chain, rules in chosen.items()})
    return f"-j {name}"


def _to(tables: Tables, address: str | None, ports: Range | None) -> str:
    """The target that translates to an address, or masquerades; with ports it is a jump, since such a rule has to name
    the protocol."""
    if ports is None:
        return snat_to(address) if address else MASQUERADE
    host = f"[{address}]" if tables.family == "ip6" else address
    text = f"{ports[0]}-{ports[1]}"
    target = f"{snat_to(f'{host}:{text}')}" if address else f"{MASQUERADE} --to-ports {text}"
    name = chain_name("", "ports", digest(target))
    tables.chains["nat", name] = [f"-p {protocol} {target}" for protocol in PROTOCOLS]
    return f"-j {name}"


def snat_to(address: str) -> str:
    """The target that translates to an address."""
    return f"-j SNAT --to-source {address}"


def _hairpin(tables: Tables, service: Service, networks: Sequence[str]) -> list[str]:
    """Clients stay visible, but for those whose replies would not pass the balancer; no foreign rule hides them."""
    backends = [backend.address for backend in service.backends if backend.family == tables.family]
    numbers = {address: int(ipaddress.ip_address(address)) for address in backends}
    near: list[str] = []
    covered = set()
    for network in networks:
        if family_of(network) != tables.family:
            continue
        low, high = number_range(network)
        inside = {address for address, number in numbers.items() if low <= number <= high}
        if inside:
            near.append(f"-s {network} -d {network} {MASQUERADE}")
            covered |= inside
    alone = [a for a in dict.fromkeys(backends) if a not in covered]
    near += [f"-s {a}/{tables.bits} -d {a}/{tables.bits} {MASQUERADE}" for a in alone]
    # An ACCEPT would leave the source to every other chain of nat behind this; a translation to itself is one for good.
    everything = "::/0" if tables.family == "ip6" else "0.0.0.0/0"
    return [*near, f"-m addrtype --src-type LOCAL {MASQUERADE}", f"-j NETMAP --to {everything}"]
