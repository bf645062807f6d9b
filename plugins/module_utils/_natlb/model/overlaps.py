# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frontends that one packet could match."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Callable, Optional

from .entities import Frontend
from .ranges import number_range

#: A frontend and the index of the service that claims it.
Claim = tuple[Frontend, int]
#: Family, protocol and address.
_Place = tuple[str, str, Optional[str]]


def _interfaces_meet(one: Frontend, two: Frontend) -> bool:
    return one.interface is None or two.interface is None or one.interface == two.interface


def _order(claim: Claim) -> tuple[int, int, int]:
    return claim[0].low, claim[0].high, claim[1]


class _Lane:
    """Claims of one address and one interface, by their ports. Without mistakes, no two of them overlap."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.claims = sorted(claims, key=_order)
        self.lows = [claim[0].low for claim in self.claims]
        #: The last port of this claim or any before it.
        self.reach = list(accumulate((claim[0].high for claim in self.claims), max))

    def before(self, end: int, low: int) -> Iterator[Claim]:
        """Of the first `end` claims those that reach `low`, the last one first."""
        for place in range(end - 1, -1, -1):
            if self.reach[place] < low:
                return
            if self.claims[place][0].high >= low:
                yield self.claims[place]


def overlaps(
    claims: Sequence[Claim], meet: Callable[[Frontend, Frontend], bool] = _interfaces_meet
) -> Iterator[tuple[Claim, Claim]]:
    """Pairs of claims that one packet could match; with another `meet`, on interfaces of which that is true.

    Each claim is looked up among those of its address, those of `*`, and those of the networks around it. So what it
    costs goes with the claims and the pairs that are found, as long as no address has claims of very many interfaces.
    """
    places: dict[_Place, dict[str | None, list[Claim]]] = {}
    for claim in claims:
        frontend = claim[0]
        lanes = places.setdefault((frontend.family, frontend.protocol, frontend.address), {})
        lanes.setdefault(frontend.interface, []).append(claim)
    sorted_lanes = {place: [_Lane(found) for found in lanes.values()] for place, lanes in places.items()}
    networks = _networks(sorted_lanes)
    for place_of_own, own in sorted_lanes.items():
        wild = [lane for place in _around(place_of_own, networks) for lane in sorted_lanes.get(place, ())]
        for number, lane in enumerate(own):
            for place, claim in enumerate(lane.claims):
                yield from _among(claim, [lane], meet, place)
                yield from _among(claim, [*own[:number], *wild], meet)


def _networks(places: Iterable[_Place]) -> dict[tuple[str, str], dict[int, dict[int, _Place]]]:
    """Those on networks by family and protocol, by how many bits of an address they leave open, and by the others."""
    found: dict[tuple[str, str], dict[int, dict[int, _Place]]] = {}
    for place in places:
        family, protocol, address = place
        if address is not None and "/" in address:
            open_bits, number = _bits(address)
            found.setdefault((family, protocol), {}).setdefault(open_bits, {})[number >> open_bits] = place
    return found


def _around(place: _Place, networks: dict[tuple[str, str], dict[int, dict[int, _Place]]]) -> Iterator[_Place]:
    """The less specific places that have an address of this one."""
    family, protocol, address = place
    known = networks.get((family, protocol), {})
    if address is None:
        for found in known.values():
            yield from found.values()
        return
    if "/" not in address:
        yield family, protocol, None
    open_bits, number = _bits(address) if known else (0, 0)
    for more_bits, found in known.items():
        if number >> more_bits in found and ("/" not in address or more_bits > open_bits):
            yield found[number >> more_bits]


def _bits(address: str) -> tuple[int, int]:
    """How many bits of an address a network leaves open, and its first address."""
    low, high = number_range(address)
    return (low ^ high).bit_length(), low


def _among(
    claim: Claim, lanes: Sequence[_Lane], meet: Callable[[Frontend, Frontend], bool], end: int | None = None
) -> Iterator[tuple[Claim, Claim]]:
    """The claim with each that it overlaps, the earlier one first; of a lane as far as `end`, where that is told."""
    for lane in lanes:
        if meet(claim[0], lane.claims[0][0]):
            last = bisect_right(lane.lows, claim[0].high) if end is None else end
            for other in lane.before(last, claim[0].low):
                one, two = sorted((other, claim), key=_order)
                yield one, two
