# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the first packet of a connection is hashed, and which clients count as one. Pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..packets import Family
from . import values
from .reading import Reading

if TYPE_CHECKING:
    from .entities import Method

#: Bits of an address.
BITS = {"ip": 32, "ip6": 128}
_FAMILY_OF: dict[str, Family] = {"ipv4": "ip", "ipv6": "ip6"}


class ClientPrefix(NamedTuple):
    """How many leading bits of a client's address tell it from others, by family."""

    ip: int = BITS["ip"]
    ip6: int = BITS["ip6"]

    def of(self, family: Family) -> int:
        return self.ip6 if family == "ip6" else self.ip

    def dump(self) -> dict[str, int]:
        """As a user types it."""
        return {title: self.of(family) for title, family in _FAMILY_OF.items()}


WHOLE = ClientPrefix()


class Opening(NamedTuple):
    """The first packet of a connection: who sent it, and to which frontend. The port may not be known."""

    client: str
    client_port: int | None
    target: str


class HashKey(NamedTuple):
    """What is hashed: the leading bits of one of the two addresses and, if `with_port`, the client's port."""

    field: Literal["saddr", "daddr"]
    bits: int
    with_port: bool = False

    def address_in(self, opening: Opening) -> str:
        """The address that is hashed, with all other bits 0."""
        return masked(opening.client if self.field == "saddr" else opening.target, self.bits)


def hash_key(method: Method, prefix: ClientPrefix, family: Family) -> HashKey | None:
    """The key of a method; None where it does not hash."""
    if method == "source_hash":
        return HashKey("saddr", prefix.of(family))
    if method == "flow_hash":
        return HashKey("saddr", BITS[family], with_port=True)
    return HashKey("daddr", BITS[family]) if method == "destination_hash" else None


def mask(family: Family, bits: int) -> str:
    """So many leading ones, as an address: `255.255.255.0`."""
    return str(ipaddress.ip_network(f"{'::' if family == 'ip6' else '0.0.0.0'}/{bits}").netmask)


def masked(address: str, bits: int) -> str:
    """The address with all but its leading bits 0."""
    return str(ipaddress.ip_network(f"{address}/{bits}", strict=False).network_address)


def client_prefix(value: Any, path: str) -> ClientPrefix:
    """As a user types it: `{ipv4: 24, ipv6: 64}`. Raises `ConfigErrors`."""
    reading = Reading()
    if isinstance(value, (int, str)):
        remedy = "write it for each family: {ipv4: 24, ipv6: 64}"
        reading.add(path, f"{values.shown(value)} does not say of which family", remedy)
        reading.done()
    given = reading.mapping(value, path, tuple(_FAMILY_OF))
    bits = {
        family: reading.read(
            values.integer, given[title], f"{path}.{title}", 1, BITS[family], "a length of a prefix", otherwise=1
        )
        for title, family in _FAMILY_OF.items()
        if title in given
    }
    reading.done()
    return ClientPrefix(**bits)
