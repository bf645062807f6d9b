# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whose source address is translated, and into which: what a service has for some clients, and for all others. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from .families import family_of
from .ranges import most_specific, networks_of, number_range

#: How a source address is translated.
Snat = Literal["masquerade", "none", "address"]


class SourceNat(NamedTuple):
    """One answer: `masquerade`, `none`, or `address`, which takes one of the `addresses` at random."""

    kind: Snat
    addresses: tuple[str, ...] = ()

    def of(self, family: str) -> tuple[str, ...]:
        """The addresses of a family."""
        return tuple(address for address in self.addresses if family_of(address) == family)

    def dump(self) -> Any:
        """As it is declared."""
        return list(self.addresses) if self.kind == "address" else self.kind


class ClientSnat(NamedTuple):
    """What clients in these networks get."""

    networks: tuple[str, ...]
    snat: SourceNat

    def dump(self) -> dict[str, Any]:
        """As it is declared."""
        return {"networks": list(self.networks), "snat": self.snat.dump()}


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
def by_network(rules: Sequence[ClientSnat], family: str) -> tuple[tuple[str, SourceNat], ...]:
    """Networks of a family that do not overlap, each with what its clients get. Services are copied often, and many
    have the same."""
    here = [(number_range(net), rule.snat) for rule in rules for net in rule.networks if family_of(net) == family]
    found = most_specific(here, family)
    return tuple((network, snat) for block, snat in found for network in networks_of(block, family))
