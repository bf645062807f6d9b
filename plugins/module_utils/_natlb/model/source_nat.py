# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose source address is translated, and into which: what a service has for some clients and backends, and for all
others. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from ..packets import Family, family_of
from .computed import computed
from .ranges import Range, most_specific, networks_of, number_range

#: How a source address is translated.
Snat = Literal["masquerade", "none", "address"]


class SourceNat(NamedTuple):
    """One answer: `masquerade`, `none`, or `address`, which takes one of the `addresses` at random; and the source
    ports to take, where not any will do."""

    kind: Snat
    addresses: tuple[str, ...] = ()
    ports: Range | None = None

    def by(self, ports: Range | None) -> SourceNat:
        """The same with these ports, if anything is translated."""
        return self if self.kind == "none" else self._replace(ports=ports)

    def of(self, family: Family) -> tuple[str, ...]:
        """The addresses of a family."""
        return tuple(address for address in self.addresses if family_of(address) == family)

    def dump(self) -> Any:
        """As it is declared."""
        return list(self.addresses) if self.kind == "address" else self.kind

    def text(self) -> str:
        """The same of at most one address."""
        return self.addresses[0] if self.kind == "address" else self.kind


class ClientSnat(NamedTuple):
    """What clients in these networks get. `words` are what is declared for them, where names of lists are among it;
    else empty."""

    networks: tuple[str, ...]
    snat: SourceNat
    words: tuple[str, ...] = ()

    def dump(self) -> dict[str, Any]:
        """As it is declared."""
        return {"networks": list(self.words or self.networks), "snat": self.snat.dump()}


def decisive(rules: Iterable[ClientSnat], client: str) -> SourceNat | None:
    """What the network with the longest prefix says of a client; None where no network has it."""
    address = ipaddress.ip_address(client)
    having = [
        (net.prefixlen, rule.snat)
        for rule in rules
        for net in map(ipaddress.ip_network, rule.networks)
        if address in net
    ]
    return max(having)[1] if having else None


@lru_cache(maxsize=64)
def by_network(rules: Sequence[ClientSnat], family: Family) -> tuple[tuple[str, SourceNat], ...]:
    """Networks of a family that do not overlap, each with what its clients get. Services are copied often, and many
    have the same."""
    here = [(number_range(net), rule.snat) for rule in rules for net in rule.networks if family_of(net) == family]
    found = most_specific(here, family)
    return tuple((network, snat) for block, snat in found for network in networks_of(block, family))


@dataclass(frozen=True)
class Translation:
    """All that a service says of its source NAT: first what the client's network has, then the backend, by its address,
    then what is usual."""

    usual: SourceNat
    by_client: tuple[ClientSnat, ...]
    by_backend: tuple[tuple[str, SourceNat], ...]

    def by(self, ports: Range | None) -> Translation:
        """The same with these source ports."""
        if ports is None:
            return self
        clients = (ClientSnat(rule.networks, rule.snat.by(ports)) for rule in self.by_client)
        backends = ((address, snat.by(ports)) for address, snat in self.by_backend)
        return Translation(self.usual.by(ports), tuple(clients), tuple(backends))

    def of(self, client: str, backend: str) -> SourceNat:
        """What a connection gets between these addresses."""
        return decisive(self.by_client, client) or dict(self.by_backend).get(backend, self.usual)

    @computed
    def answers(self) -> tuple[SourceNat, ...]:
        """Everything that a connection may get."""
        clients, backends = (rule.snat for rule in self.by_client), (snat for _address, snat in self.by_backend)
        return tuple(dict.fromkeys([self.usual, *clients, *backends]))

    @computed
    def shows_clients(self) -> bool:
        """Whether backends see the own address of some clients, or of all."""
        return any(snat.kind == "none" for snat in self.answers)

    @computed
    def always_masquerades(self) -> bool:
        """Whether no declared address, nor that of a client, is what backends see."""
        return all(snat.kind == "masquerade" for snat in self.answers)

    @computed
    def addresses(self) -> tuple[str, ...]:
        """The declared addresses that backends see clients by."""
        return tuple(dict.fromkeys(address for snat in self.answers for address in snat.addresses))

    def at_backends(self, family: Family) -> list[tuple[str, SourceNat]]:
        """The addresses of backends of a family that have an answer of their own."""
        return [(address, snat) for address, snat in self.by_backend if family_of(address) == family]


@lru_cache(maxsize=1024)
def translation(
    kind: Snat,
    addresses: tuple[str, ...],
    by_client: tuple[ClientSnat, ...],
    by_backend: tuple[tuple[str, SourceNat], ...],
    ports: Range | None,
) -> Translation:
    """The translation of a service. Nearly all have the same one; `by_backend` may name an address more than once. By
    which names its networks are declared is no part of it."""
    clients = tuple(rule._replace(words=()) for rule in by_client)
    return Translation(SourceNat(kind, addresses), clients, tuple(dict.fromkeys(by_backend))).by(ports)
