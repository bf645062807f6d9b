# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of frontends on networks where more specific ones are within them.

Of two networks one is within the other, or they have nothing in common. So what is left of one is a list of boxes:
addresses, and the ports that all of these have left.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from .entities import Frontend
from .precedence import rank
from .ranges import Box, Range, merged, most_specific, number_range, without

_Placed = tuple[Range, Frontend]


def left_of_networks(frontends: Iterable[Frontend]) -> dict[Frontend, list[Box]]:
    """Of each frontend on a network from which others take something what they leave: (addresses, ports)."""
    lanes: dict[tuple[str, str], dict[Frontend, None]] = {}
    for frontend in frontends:
        if frontend.is_network:
            lanes.setdefault((frontend.family, frontend.protocol), {})[frontend] = None
    found: dict[Frontend, list[Box]] = {}
    for (family, _protocol), lane in lanes.items():
        placed = sorted(((number_range(str(item.address)), item) for item in lane), key=_wider_first)
        starts = [_wider_first(item) for item in placed]
        for block, frontend in placed:
            inner = _from(placed, bisect_left(starts, _wider_first((block, frontend))), block[1])
            takers = [item for item in inner if _takes_from(item[1], frontend)]
            if takers:
                found[frontend] = _left(block, frontend, takers, family)
    return found


def _wider_first(placed: _Placed) -> tuple[int, int]:
    (low, high), _frontend = placed
    return low, -high


def _from(placed: Sequence[_Placed], start: int, last: int) -> Iterator[_Placed]:
    """Those of the same network and of networks within it."""
    for index in range(start, len(placed)):
        if placed[index][0][0] > last:
            return
        yield placed[index]


def _takes_from(one: Frontend, other: Frontend) -> bool:
    return (
        one.interface in (None, other.interface)
        and one.low <= other.high
        and other.low <= one.high
        and rank(one) > rank(other)
    )


def _left(block: Range, frontend: Frontend, takers: Sequence[_Placed], family: str) -> list[Box]:
    taken: dict[Range, list[Range]] = {}
    for place, taker in takers:
        taken.setdefault(place, []).append((taker.low, taker.high))
    whole = frontend.low, frontend.high
    rests: list[tuple[Range, tuple[Range, ...] | None]] = []
    if block not in taken:
        rests.append((block, (whole,)))
    around: list[tuple[int, tuple[Range, ...]]] = []
    for place, ports in taken.items():
        while around and around[-1][0] < place[0]:
            around.pop()
        all_taken = merged([*(around[-1][1] if around else ()), *ports])
        around.append((place[1], all_taken))
        rests.append((place, without(whole, all_taken) or None))
    return [(addresses, ports) for addresses, rest in most_specific(rests, family) for ports in rest]
