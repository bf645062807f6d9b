# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of hash slots, which all services with the same backends share.

A table leads from a slot to the number of a backend; which backend of a service has that number stands in the slot
maps, for each service by itself. So a service costs an element for each backend, not one for each slot, and each of its
backends has a counter:

    source_hash_tcp.7qk…          jhash ip saddr mod 2048 seed … vmap @source_hash_tcp.7qk…; goto first_slot_tcp
    @source_hash_tcp.7qk…         0 : goto hash_tcp_2, 1 : goto hash_tcp_3, …
    hash_tcp_2                    dnat ip to ip daddr . tcp dport . numgen random mod 1 offset 2 map @slot_tcp; …

Where there are many tables of few backends, slots that lie side by side are one element, which leads to a chain for
that row of numbers; rows are the same in all tables:

    source_hash_tcp.7qk…          jhash ip saddr mod 512 seed … vmap @source_hash_tcp.7qk…; goto first_slot_tcp
    @source_hash_tcp.7qk…         0 : goto hash_tcp_2, 1 : goto source_hash_tcp_2.0.3.3, …
    source_hash_tcp_2.0.3.3       jhash ip saddr mod 2048 seed … & 3 vmap { 0 : goto hash_tcp_2, … }; goto hash_tcp_3

The number that has the most slots is left out of a map. It is where a packet goes that finds nothing there, also one
that looks while slots change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..model.entities import Backend, Service
from ..model.hash_keys import Opening
from ..model.hash_table import BLOCKS
from ..model.kernel_hashes import jhash, scaled, source_key
from ..model.slots import HASHES, dealt_weights, declared_backends, hash_slots, slot_count
from ..packets import Family, family_of
from ..ruleset.names import digest

#: One seed for all hash look-ups: the same on every balancer, and a client that hashes to one backend for port 80 goes
#: to the same one for port 443. Any constant does; without one the kernel draws a new seed at each load.
SEED = 0x6E61746C
#: Most slots in a row, and the most tables that such rows are for. A row costs a packet some 0.15 µs, and a wide one up
#: to 0.3 µs, since there are many of these, and not in the cache. But a million slots (700 tables of four backends)
#: take ten seconds to load.
_WIDEST = ((1, 128), (2, 512))
_WIDEST_OF_MANY = 8
#: At most so many different rows there are of one length.
_ROWS = 256


class HashTable(NamedTuple):
    """`backends[number]` serves, or the one of `common` does in its place; `slots` are numbers."""

    name: str
    backends: Sequence[Backend]
    slots: Sequence[int]
    #: The number that has the most slots, and whether others have some.
    common: int
    mixed: bool
    widest: int

    @classmethod
    def of(cls, name: str, backends: Sequence[Backend], slots: Sequence[int], widest: int) -> HashTable:
        """The table that has these slots."""
        common = most_frequent(slots)
        return cls(name, backends, slots, common, any(number != common for number in slots), widest)

    def width(self) -> int:
        """Slots in a row, where there are rows: 8 with two backends, 4 with up to four, 2 with up to 16, else 1.
        A finer table would have columns of its own, so it has no rows."""
        width = 1
        while len(self.slots) == BLOCKS and width < self.widest and len(self.backends) ** (2 * width) <= _ROWS:
            width *= 2
        return width

    def rows(self) -> dict[int, tuple[int, ...]]:
        """The rows by their place, but for those that are all `common`; one of a single number is that alone."""
        rows = list(zip(*[iter(self.slots)] * self.width()))
        short = {row: row[:1] if len(set(row)) == 1 else row for row in set(rows)}
        omitted = (self.common,)
        return {place: short[row] for place, row in enumerate(rows) if short[row] != omitted}


def most_frequent(numbers: Sequence[int]) -> int:
    """The number that occurs most often; of several the smallest. `numbers` are not empty."""
    counts = Counter(numbers)
    return min(counts, key=lambda number: (-counts[number], number))


def shares_table(service: Service) -> bool:
    """Whether a hash of the client leads to slots of the service in the slot maps."""
    return service.method in HASHES and not service.affinity_s and not service.limits_backends and service.is_exact


def slot_elements(service: Service, family: Family) -> int:
    """How many elements of a slot map each frontend of a service is."""
    if shares_table(service):
        return len(declared_backends(service, family))
    return 0 if service.method in HASHES else slot_count(service, family)


def table_names(services: Sequence[Service], family: Family) -> dict[str, str]:
    """The name of the table of each service that has one, by the service's name.

    It goes with the declared backends alone, so that a drain changes the slots and not the names of tables. Where one
    is drained for some services only, the table of most of them keeps that name.
    """
    found: dict[str, tuple[str, str]] = {}
    for service in filter(shares_table, services):
        declared = declared_backends(service, family)
        serving = {backend.key for backend in service.serving(family)}
        if serving:
            weighted = zip(declared, dealt_weights(declared))
            composition = "\n".join(f"{b.key} {weight} {b.backup}" for b, weight in weighted)
            found[service.name] = composition, "".join("01"[b.key in serving] for b in declared)
    states = sorted(Counter(found.values()).items(), key=lambda entry: (entry[1], entry[0]))
    usual = {composition: state for (composition, state), _count in states}
    return {
        name: digest(composition if usual[composition] == state else f"{composition}\n{state}")
        for name, (composition, state) in found.items()
    }


def widest(tables: Mapping[str, str]) -> int:
    """At most so many slots that lie side by side are one element."""
    count = len(set(tables.values()))
    return next((width for width, most in _WIDEST if count <= most), _WIDEST_OF_MANY)


def hash_table(service: Service, family: Family, name: str, widest: int, known: HashTable | None) -> HashTable:
    """The table of this name, see `table_names`; `widest` is that of all tables. `known` is the one that another
    service has: its slots are the same, and to count them again for each service would take longer than the rest."""
    if known is None:
        declared, slots = hash_slots(service, family)
        known = HashTable.of(name, declared, slots, widest)
    else:
        declared = declared_backends(service, family)
    serving = {backend.key for backend in service.serving(family)}
    backends = [backend if backend.key in serving else declared[known.common] for backend in declared]
    return known._replace(backends=backends)


def picked(service: Service, opening: Opening) -> Backend | None:
    """The backend in the slot that the hash of a service points to; None where it is no hash, or of an unknown port."""
    family = family_of(opening.client)
    key = service.hash_key(family)
    if key is None or not service.serving(family) or (key.with_port and opening.client_port is None):
        return None
    declared, table = hash_slots(service, family)
    hashed = source_key(key.address_in(opening), opening.client_port if key.with_port else None)
    return declared[table[scaled(jhash(hashed, SEED), len(table))]]
