# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The source NAT of some clients and backends, as a user types it, and whether it fits the service. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ..errors import ConfigError
from ..packets import Family, family_name, family_of
from . import values
from .entities import Backend
from .lists import snat_choice
from .network_lists import NOTHING, KnownLists, Listed, name_lists, read_listed
from .reading import Reading
from .source_nat import ClientSnat, Snat, SourceNat

#: In one service. Each is an element of a map or a rule, and has to be listed with all others.
MAX_NETWORKS = 4096
_KEYS = ("networks", "snat")
_NOBODY = "name networks, or take the entry out: snat of the service is for all others"


def read_by_client(value: Any, path: str, lists: KnownLists) -> tuple[ClientSnat, ...]:
    """As a user types it; names of `lists` stand for their networks. Raises `ConfigErrors`."""
    items = values.sequence(value, path)
    reading = Reading()
    places: dict[str, tuple[str, SourceNat]] = {}
    found: list[ClientSnat] = []
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        for rule in reading.each(lambda item, at: _rule(item, at, lists), [(at, item)]):
            for network in rule.networks:
                other, snat = places.setdefault(network, (at, rule.snat))
                if snat != rule.snat:
                    remedy = "name a network once, or a part of it: the longest prefix decides"
                    reading.add(f"{at}.networks", f"{network} stands at {other} already, with another snat", remedy)
            found.append(rule)
    reading.done()
    if len(places) > MAX_NETWORKS:
        raise ConfigError(path, f"{len(places)} networks", f"at most {MAX_NETWORKS} in one service")
    return tuple(found)


def _rule(value: Any, path: str, lists: KnownLists) -> ClientSnat:
    reading = Reading()
    given = reading.mapping(value, path, _KEYS, _KEYS)
    reading.done()
    named: Listed = reading.read(read_listed, given["networks"], f"{path}.networks", _NOBODY, lists, otherwise=NOTHING)
    otherwise: tuple[Snat, tuple[str, ...]] = ("none", ())
    snat = reading.read(snat_choice, given["snat"], f"{path}.snat", otherwise=otherwise)
    reading.done()
    return ClientSnat(named.networks, SourceNat(*snat), named.words if name_lists(named.words) else ())


def of_backend(value: Any, path: str, address: str) -> SourceNat:
    """What a backend at this address sees of clients."""
    found = SourceNat(*snat_choice(value, path))
    if len(found.addresses) > 1:
        raise ConfigError(path, f"{len(found.addresses)} addresses", "a backend has one; snat of a service has many")
    if found.addresses and not found.of(family_of(address)):
        problem = f"{found.addresses[0]} is not of the family of {address}"
        raise ConfigError(path, problem, f"name an {family_name(family_of(address))} address")
    return found


def check_backends(backends: Sequence[Backend], path: str, reading: Reading) -> None:
    """Whether those at one address see the same: nothing but that tells them apart where a source is translated."""
    seen: dict[str, tuple[int, SourceNat | None]] = {}
    for index, backend in enumerate(backends):
        first, snat = seen.setdefault(backend.address, (index, backend.snat))
        if snat != backend.snat:
            problem = f"{backend.address} stands at {path}[{first}] with another snat"
            reading.add(f"{path}[{index}].snat", problem, "give both the same, or make two services of them")


def check_by_client(rules: Sequence[ClientSnat], families: Collection[Family], path: str, reading: Reading) -> None:
    """Whether networks and addresses are of one family, and of one that the service listens in."""
    for index, rule in enumerate(rules):
        at = f"{path}[{index}]"
        named = {family_of(network) for network in rule.networks}
        if named and named.isdisjoint(families):
            problem = f"{rule.networks[0]} is of a family that the service does not listen in"
            reading.add(f"{at}.networks", problem, "drop it")
        if rule.snat.kind != "address":
            continue
        for family in sorted(named & set(families)):
            if not rule.snat.of(family):
                reading.add(f"{at}.snat", f"names no {family_name(family)} address", "its networks are of that family")
        others = [address for address in rule.snat.addresses if family_of(address) not in named]
        if others:
            reading.add(f"{at}.snat", f"{others[0]} is of a family that none of its networks is of", "drop it")
