# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether balancers are alike: the same slots for the same address, so that a client keeps its backend whichever of
them it comes to, and what else differs between them. Pure.

The table of slots follows from the declaration alone. So it is compared before any host is changed; that a host has the
rules of its declaration is for `balancer_info` to say (drift).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.entities import Config, Service, dump
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.slots import HASHES

#: Of a service and of its backends: what its slots, and the way in which one is picked, are made from, beside its pins.
_OF_SERVICE = ("method", "client_prefix", "name", "backups", "min_healthy", "min_healthy_again")
_OF_BACKEND = ("address", "port", "weight", "state", "backup", "priority")
#: So many hexadecimal digits tell services apart.
_DIGITS = 16

Table = Mapping[str, Any]


def tables(config: Config) -> list[dict[str, Any]]:
    """Of each service that listens on an address that another balancer may have as well: `name`, `method`, `listen`,
    and `slots`, a digest of all that its slots are made from."""
    dumped = dump(config)["services"]
    return [
        {
            "name": service.name,
            "method": service.method,
            "listen": listen,
            "slots": _digest(_made_from(service, item)),
        }
        for service, item in zip(config.services, dumped)
        if (listen := _shared(service))
    ]


def _digest(made_from: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _shared(service: Service) -> list[str]:
    inside = f" on {service.interface}" if service.interface else ""
    return [
        f"{protocol} {listen}{inside}"
        for listen in map(str, service.listens)
        for protocol in service.protocols
        if not listen.startswith("*")
    ]


def _made_from(service: Service, item: Mapping[str, Any]) -> dict[str, Any]:
    """`item` is the service as JSON has it. Its pins may name lists, which need not be the same on another balancer."""
    found = {key: item.get(key) for key in _OF_SERVICE}
    pinned = [pin for family in service.families() for pin in service.pinned(family)]
    found["pins"] = [[network, backend.address, backend.given_port] for network, backend in pinned]
    found["backends"] = [{key: backend.get(key) for key in _OF_BACKEND} for backend in item["backends"]]
    return found


def differences(of_hosts: Mapping[str, Sequence[Table]]) -> list[str]:
    """One message for each service that has other slots on one balancer than on the first one with its address."""
    first: dict[str, tuple[str, Table]] = {}
    found: dict[str, None] = {}
    for host, services in of_hosts.items():
        for service in services:
            for listen in service["listen"]:
                before, other = first.setdefault(listen, (host, service))
                if before != host and other["slots"] != service["slots"]:
                    found.setdefault(_difference(host, service, before, other, listen))
    return list(found)


def _difference(host: str, service: Table, before: str, other: Table, listen: str) -> str:
    also = "" if other["name"] == service["name"] else f" ({other['name']} there)"
    return (
        f"{service['name']}: {host} would have other slots for {listen} than {before}{also}, so a client would get "
        "another backend when it comes to the other balancer (declare the service once for both, with the same "
        "backends in the same order, or set natlb_compare_tables: false if the address is in several places at once)"
    )


class Balancer(NamedTuple):
    """What a run has learnt of one balancer. What is empty is not known."""

    engine: str
    kernel: str
    nft: str
    services: tuple[Table, ...]


def engines_that_differ(hosts: Mapping[str, Balancer]) -> list[str]:
    """Services that hash clients, on balancers whose engines make other tables of the same slots."""
    first: dict[str, tuple[str, str]] = {}
    found: dict[str, None] = {}
    for name, balancer in hosts.items():
        for service in balancer.services if balancer.engine else ():
            for listen in service["listen"] if service["method"] in HASHES else ():
                before, engine = first.setdefault(listen, (name, balancer.engine))
                if engine != balancer.engine:
                    found.setdefault(
                        f"{service['name']}: {name} has it in {balancer.engine}, {before} in {engine}, and these pick "
                        f"other backends with the method {service['method']} (set natlb_engine for both)"
                    )
    return list(found)


def unlike(hosts: Mapping[str, Balancer]) -> list[str]:
    """One line for each thing that is not the same on all balancers, or one that says that all are alike."""
    found = []
    for what, values in (
        ("engine", {name: balancer.engine for name, balancer in hosts.items()}),
        ("kernel", {name: balancer.kernel for name, balancer in hosts.items()}),
        ("nft", {name: balancer.nft for name, balancer in hosts.items()}),
    ):
        known = {name: value for name, value in values.items() if value}
        if len(set(known.values())) > 1:
            found.append(f"{what}: {_by_value(known)}")
    found += _services(hosts)
    return found or [f"all {len(hosts)} balancers are alike"]


def _services(hosts: Mapping[str, Balancer]) -> Iterator[str]:
    having: dict[str, list[str]] = {}
    for name, balancer in hosts.items():
        for service in dict.fromkeys(item["name"] for item in balancer.services):
            having.setdefault(service, []).append(name)
    for service, names in having.items():
        if len(names) < len(hosts):
            yield f"service {service}: only on {_names(names)}"


def _by_value(values: Mapping[str, str]) -> str:
    groups: dict[str, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    return ", ".join(f"{value} on {_names(names)}" for value, names in groups.items())


def _names(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
