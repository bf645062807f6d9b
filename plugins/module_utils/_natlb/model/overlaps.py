# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frontends that one packet could match."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Callable, Optional

from ..packets import Family
from .entities import Frontend
from .network_index import NetworkIndex
from .spelling import is_network

#: A frontend and the index of the service that claims it.
Claim = tuple[Frontend, int]
#: Family, protocol and address.
_Place = tuple[Family, str, Optional[str]]


def _interfaces_meet(one: Frontend, two: Frontend) -> bool:
    return one.interface is None or two.interface is None or one.interface == two.interface


def _order(claim: Claim) -> tuple[int, int, int]:
    return claim[0].low, claim[0].high, claim[1]


class _Lane:
    """Claims of one address and one interface, by their ports. Some may lie within others."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.claims = sorted(claims, key=_order)
        self.lows = [claim[0].low for claim in self.claims]
        self._highs = [claim[0].high for claim in self.claims]
        #: The last port of this claim or any before it.
        self._reach = list(accumulate(self._highs, max))

    @property
    def first(self) -> Frontend:
        return self.claims[0][0]

    def before(self, end: int, low: int) -> Iterator[Claim]:
        """Of the first `end` claims those that reach `low`, the last one first."""
        while end and self._reach[end - 1] >= low:
            end = self._last(end, low)
            yield self.claims[end]

    @cached_property
    def _tree(self) -> list[int]:
        """In its second half the last port of each claim, and before that at each place the greater one of the two at
        twice that place."""
        size = 1 << len(self.claims).bit_length()
        tree = [-1] * size + self._highs + [-1] * (size - len(self.claims))
        for place in range(size - 1, 0, -1):
            tree[place] = max(tree[2 * place], tree[2 * place + 1])
        return tree

    def _last(self, end: int, low: int) -> int:
        """The last of the first `end` claims that reaches `low`; one does."""
        if self._highs[end - 1] >= low:
            return end - 1
        tree, size = self._tree, len(self._tree) // 2
        place = end + size
        while not (place & 1 and tree[place - 1] >= low):
            place >>= 1
        place -= 1
        while place < size:
            place = 2 * place + (tree[2 * place + 1] >= low)
        return place - size


def overlaps(
    claims: Sequence[Claim], meet: Callable[[Frontend, Frontend], bool] = _interfaces_meet
) -> Iterator[tuple[Claim, Claim]]:
    """Pairs of claims that one packet could match; with another `meet`, on addresses and
    interfaces of which that is true.

    Each claim is looked up among those of its address, and those of the networks around it and of `*`. So what it costs
    goes with the claims and the pairs that are found, as long as no address has claims of very many interfaces.
    """
    places: dict[_Place, dict[str | None, list[Claim]]] = {}
    for claim in claims:
        frontend = claim[0]
        lanes = places.setdefault((frontend.family, frontend.protocol, frontend.address), {})
        lanes.setdefault(frontend.interface, []).append(claim)
    sorted_lanes = {place: [_Lane(found) for found in lanes.values()] for place, lanes in places.items()}
    networks = _networks(sorted_lanes)
    for place_of_own, own in sorted_lanes.items():
        wider = [lane for place in _around(place_of_own, networks) for lane in sorted_lanes.get(place, ())]
        for number, lane in enumerate(own):
            among_own = meet(lane.first, lane.first)
            others = [other for other in (*own[:number], *wider) if meet(lane.first, other.first)]
            for place, claim in enumerate(lane.claims if among_own or others else ()):
                if among_own:
                    yield from _among(claim, lane, place)
                for other in others:
                    yield from _among(claim, other, bisect_right(other.lows, claim[0].high))


def _networks(places: Iterable[_Place]) -> dict[tuple[Family, str], NetworkIndex]:
    """By family and protocol."""
    found: dict[tuple[Family, str], NetworkIndex] = {}
    for family, protocol, address in places:
        if is_network(address):
            found.setdefault((family, protocol), NetworkIndex()).add(str(address))
    return found


def _around(place: _Place, networks: dict[tuple[Family, str], NetworkIndex]) -> Iterator[_Place]:
    """Those that have the addresses of this one. `*` stands for any that the host may have: it is around each address,
    and each network."""
    family, protocol, address = place
    if address is not None:
        yield family, protocol, None
        if (family, protocol) in networks:
            yield from ((family, protocol, network) for network in networks[family, protocol].around(address))


def _among(claim: Claim, lane: _Lane, end: int) -> Iterator[tuple[Claim, Claim]]:
    """The claim with each of the first `end` of a lane that it overlaps, the earlier one first."""
    for other in lane.before(end, claim[0].low):
        one, two = sorted((other, claim), key=_order)
        yield one, two
