# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of each frontend is left to it where a more specific one takes some of its packets (`precedence.py`).

Engines look frontends up in several places, one after the other: those on an address before those on `*`, and these
before those on networks. Within one place no two may overlap. So there a range is cut into the parts that narrower ones
leave. Of networks those of an interface are one place and those of any another one, which comes after it: the former
are cut by longer prefixes of both.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Callable, NamedTuple

from ..packets import Family
from .entities import Config, Frontend, Service
from .nested_networks import left_of_networks
from .nested_ranges import nested
from .overlaps import overlaps
from .ranges import networks_of


@dataclass(frozen=True)
class Part(Frontend):
    """Some ports of a range, perhaps a single one; of a network also some of its addresses."""

    #: Of a network, that of the whole.
    length: int = 0

    @property
    def spans(self) -> bool:
        return True

    @property
    def prefix_length(self) -> int:
        return self.length


class Territory(NamedTuple):
    """`parts` has the frontends that are cut. `preferred` are those of one interface that share packets with one of
    any interface on the same address, which is in `shadowed`, and so have to be met before it."""

    parts: Mapping[Frontend, tuple[Frontend, ...]]
    preferred: frozenset[Frontend]
    shadowed: frozenset[Frontend]

    def of(self, service: Service) -> Sequence[Frontend]:
        """The frontends of a service, without what others take of them."""
        if not self.parts:
            return service.frontends()
        return [part for frontend in service.frontends() for part in self.parts.get(frontend, (frontend,))]

    def shows(self, frontend: Frontend) -> bool:
        """Whether the original destination of a connection tells that it is of this frontend. It shows neither that
        the address was a local one nor by which interface the connection came in. And of what goes to an address of a
        network, others may translate some."""
        return (
            frontend.address is not None
            and frontend.interface is None
            and not frontend.is_network
            and frontend not in self.shadowed
        )

    def prefers(self, family: Family) -> bool:
        """Whether frontends of one interface have to be met first in this family."""
        return any(frontend.family == family for frontend in self.preferred)


#: Where no frontend is more specific than another.
APART = Territory({}, frozenset(), frozenset())


def _one_place(_frontend: Frontend) -> Hashable:
    return None


def territory(services: Sequence[Service], place: Callable[[Frontend], Hashable] = _one_place) -> Territory:
    """The territory of each of these services, of which some may have the same frontends. Of one address and one
    interface, frontends of the same `place` are cut along each other; by default all of them."""
    # Of exact ones none takes packets of another.
    if all(service.is_exact for service in services):
        return APART
    found = APART._replace(parts={**_cut(services, place), **_cut_networks(services)})
    if not any(service.interface for service in services):
        return found
    pairs = set(_shared(services, found))
    preferred, shadowed = frozenset(one for one, _other in pairs), frozenset(other for _one, other in pairs)
    return found._replace(preferred=preferred, shadowed=shadowed)


def territory_of(config: Config, place: Callable[[Frontend], Hashable] = _one_place) -> Territory:
    """The territory of a whole declaration. It stays with that, as a cached property would: many ask for it."""
    known: dict[Callable[[Frontend], Hashable], Territory] = vars(config).setdefault("_territory", {})
    if place not in known:
        known[place] = territory(config.services, place)
    return known[place]


def _cut(services: Iterable[Service], place: Callable[[Frontend], Hashable]) -> dict[Frontend, tuple[Frontend, ...]]:
    def lane(frontend: Frontend) -> Hashable:
        return frontend.family, frontend.protocol, frontend.address, frontend.interface, place(frontend)

    frontends = [item for service in services for item in service.frontends() if not item.is_network]
    lanes: dict[Hashable, list[Frontend]] = {lane(frontend): [] for frontend in frontends if frontend.spans}
    for frontend in frontends if lanes else ():
        if lane(frontend) in lanes:
            lanes[lane(frontend)].append(frontend)
    found: dict[Frontend, tuple[Frontend, ...]] = {}
    for listed in lanes.values():
        for outer, inner in nested(dict.fromkeys(listed)).items():
            found[outer] = tuple(_left(outer, inner))
    return found


def _cut_networks(services: Iterable[Service]) -> dict[Frontend, tuple[Frontend, ...]]:
    left = left_of_networks(frontend for service in services for frontend in service.frontends())
    return {
        frontend: tuple(
            replace(_part(frontend, *ports), address=network, length=frontend.prefix_length)
            for addresses, ports in boxes
            for network in networks_of(addresses, frontend.family)
        )
        for frontend, boxes in left.items()
    }


def _left(outer: Frontend, inner: Iterable[Frontend]) -> Iterator[Part]:
    low = outer.low
    for item in inner:
        if low < item.low:
            yield _part(outer, low, item.low - 1)
        low = item.high + 1
    if low <= outer.high:
        yield _part(outer, low, outer.high)


def _part(outer: Frontend, low: int, high: int) -> Part:
    family, protocol, address, _low, _high, interface = astuple(outer)
    return Part(family, protocol, address, low, high, interface)


def _shared(services: Sequence[Service], whole: Territory) -> Iterator[tuple[Frontend, Frontend]]:
    """Pairs of one address with packets in common: that of one interface, and that of any."""
    claims = [(frontend, index) for index, service in enumerate(services) for frontend in whole.of(service)]
    for (first, _one), (second, _two) in overlaps(claims, meet=_of_one_and_of_any):
        if first.address == second.address and not first.is_network:
            yield (second, first) if first.interface is None else (first, second)


def _of_one_and_of_any(one: Frontend, two: Frontend) -> bool:
    return (one.interface is None) != (two.interface is None)
