# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is left of frontends on networks where more specific ones are within them.

Of two networks one is within the other, or they have nothing in common. So what is left of one is a list of boxes:
addresses, and the ports that all of these have left.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from .entities import Frontend
from .nested_ranges import nested
from .overlaps import Claim, overlaps
from .ranges import Box, Range, merged, most_specific, number_range, without


def left_of_networks(frontends: Iterable[Frontend]) -> dict[Frontend, list[Box]]:
    """Of each frontend on a network from which others take something what they leave: (addresses, ports)."""
    everyone = list(dict.fromkeys(frontend for frontend in frontends if frontend.is_network))
    taken: dict[Frontend, list[Box]] = {}
    claims = []
    within = _within(everyone)
    # What is left within one network overlaps with nothing else there. So each part meets few of a wider network.
    for number, frontend in enumerate(everyone):
        inner = within.get(frontend, ())
        if inner:
            taken[frontend] = list(map(_box, inner))
        claims += [(part, number) for part in _parts(frontend, inner)]
    for outer, taker in _takers(claims):
        taken.setdefault(everyone[outer], []).append(_box(taker))
    return {frontend: _left(frontend, taken[frontend]) for frontend in everyone if frontend in taken}


def _within(frontends: Iterable[Frontend]) -> dict[Frontend, list[Frontend]]:
    """By each frontend with others of its network and interface within its ports those directly within."""
    lanes: dict[tuple[str, str, str | None, str | None], list[Frontend]] = {}
    for item in frontends:
        lanes.setdefault((item.family, item.protocol, item.address, item.interface), []).append(item)
    return {outer: inner for lane in lanes.values() for outer, inner in nested(lane).items()}


def _parts(frontend: Frontend, inner: Sequence[Frontend]) -> list[Frontend]:
    if not inner:
        return [frontend]
    left = without((frontend.low, frontend.high), ((item.low, item.high) for item in inner))
    return [replace(frontend, low=low, high=high) for low, high in left]


def _takers(claims: Sequence[Claim]) -> Iterator[tuple[int, Frontend]]:
    """The number of each frontend, with parts on longer prefixes that take something from it."""
    for one, two in overlaps(claims, meet=_takes):
        (_outer, number), (taker, _number) = sorted((one, two), key=lambda claim: claim[0].prefix_length)
        yield number, taker


def _takes(one: Frontend, two: Frontend) -> bool:
    """Whether one of two frontends takes from the other, where one's network is within the other's."""
    outer, inner = sorted((one, two), key=lambda frontend: frontend.prefix_length)
    return outer.address != inner.address and inner.interface in (None, outer.interface)


def _box(frontend: Frontend) -> Box:
    return number_range(str(frontend.address)), (frontend.low, frontend.high)


def _left(frontend: Frontend, takers: Iterable[Box]) -> list[Box]:
    block, whole = _box(frontend)
    taken: dict[Range, list[Range]] = {}
    for place, ports in takers:
        taken.setdefault(place, []).append(ports)
    rests: list[tuple[Range, tuple[Range, ...] | None]] = []
    if block not in taken:
        rests.append((block, (whole,)))
    around: list[tuple[int, tuple[Range, ...]]] = []
    for place in sorted(taken, key=_wider_first):
        while around and around[-1][0] < place[0]:
            around.pop()
        known = around[-1][1] if around else ()
        # What a wider network takes already changes nothing: to merge it would cost as much as all that this one takes.
        more = [ports for ports in taken[place] if not _has(known, ports)]
        if more:
            all_taken = merged([*known, *more])
            around.append((place[1], all_taken))
            rests.append((place, without(whole, all_taken) or None))
    return [(addresses, ports) for addresses, rest in most_specific(rests, frontend.family) for ports in rest]


def _wider_first(block: Range) -> tuple[int, int]:
    return block[0], -block[1]


def _has(known: Sequence[Range], ports: Range) -> bool:
    """Whether merged ranges have all of these ports."""
    at = bisect_right(known, (ports[0], ports[1])) - 1
    return any(low <= ports[0] and ports[1] <= high for low, high in known[max(at, 0) : at + 2])
