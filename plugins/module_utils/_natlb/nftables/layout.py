# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rules of one service depend on beside the service: over how many maps all are spread, and which of them
share a table of hash slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..model import redispatch, takeover
from ..model.entities import Config, Frontend, Service
from ..model.territory import Territory, territory_of
from ..packets import FAMILIES, Family
from .hashes import shares_table, slot_elements, table_names, widest
from .table import frontend_map

#: Services whose rules look up one map. With each rule the kernel walks all elements of the map, and all rules that
#: look it up already (nf_tables_bind_set), so the cost of a load grows with the square: ten thousand rules on one map
#: take 20 s, spread over 256 maps 1 s. Many more maps cost more than they save.
SERVICES_PER_MAP = 64
#: Slots of one map, likewise: to list a map the kernel begins at its first element again for each few hundred of them
#: (nft_rhash_walk). A million slots in one map take 95 s to list, in 64 maps 22 s.
SLOTS_PER_MAP = 32768


class Layout(NamedTuple):
    """`hash_tables` are the names of tables by family and service. `lookups` and `slots` are what all services have
    of rules that look up a slot map, and of slots in them. `territory` is how their frontends share packets; for
    `spared` see `redispatch.py`. `takeover` has the names of services whose connections are taken over,
    and `marked` the families in which packets get marks."""

    lookups: int
    slots: int
    hash_tables: Mapping[Family, Mapping[str, str]]
    territory: Territory
    spared: frozenset[Frontend]
    takeover: frozenset[str]
    marked: frozenset[Family]

    @property
    def shards(self) -> int:
        """Over how many slot maps the services are spread: a power of two, so it seldom changes."""
        shards = 1
        while self.lookups > shards * SERVICES_PER_MAP or self.slots > shards * SLOTS_PER_MAP:
            shards *= 2
        return shards

    def is_like(self, other: Layout) -> bool:
        """Whether the rules of most services are the same with both."""
        return self.shards == other.shards and self._widths == other._widths

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(widest(tables) for tables in self.hash_tables.values())

    def moved(self, other: Layout) -> set[str]:
        """The names of services whose table of hash slots has another name there."""
        return {
            name
            for family, tables in self.hash_tables.items()
            if tables is not other.hash_tables[family]
            for name, table in tables.items()
            if other.hash_tables[family].get(name) != table
        }


def lay_out(config: Config) -> Layout:
    """The layout of a whole configuration."""
    services = config.services
    found = territory_of(config, frontend_map)
    spared = redispatch.spared(services, found)
    taken = takeover.taking_over(services)
    marked = frozenset(family for service in services if service.is_marked for family in service.families())
    return Layout(_lookups(services), _slots(services), _hash_tables(services), found, spared, taken, marked)


def laid_out_anew(
    layout: Layout, before: Sequence[Service], after: Sequence[Service], services: Iterable[Service]
) -> Layout:
    """The layout where some services have changed, and none its frontends; `services` are all of them, as they are
    then."""
    hashes = any(map(shares_table, (*before, *after)))
    return Layout(
        layout.lookups + _lookups(after) - _lookups(before),
        layout.slots + _slots(after) - _slots(before),
        _hash_tables(services) if hashes else layout.hash_tables,
        layout.territory,
        layout.spared,
        layout.takeover,
        layout.marked,
    )


def has_own_chain(service: Service) -> bool:
    """Whether the service needs rules that no other service can share."""
    return bool(
        service.takes_turns
        or service.affinity_s
        or service.allow_from
        or service.deny_from
        or service.max_connections_per_client
        or service.new_connections_per_second
        or service.log
        or service.idle_timeout_s
        or service.helper
        or service.pins
        or service.limits_backends
        or not service.is_exact
    )


def _lookups(services: Iterable[Service]) -> int:
    return sum(len(s.protocols) for s in services if has_own_chain(s) and not shares_table(s))


def _slots(services: Iterable[Service]) -> int:
    return sum(slot_elements(s, frontend.family) for s in services for frontend in s.frontends() if frontend.exact)


def _hash_tables(services: Iterable[Service]) -> dict[Family, dict[str, str]]:
    hashing = list(filter(shares_table, services))
    return {family: table_names([s for s in hashing if family in s.families()], family) for family in FAMILIES}
