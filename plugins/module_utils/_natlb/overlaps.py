# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Frontends that one packet could match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Callable

from .entities import Frontend

#: A frontend and the index of the service that claims it.
Claim = tuple[Frontend, int]


def _interfaces_meet(one: Frontend, two: Frontend) -> bool:
    return one.interface is None or two.interface is None or one.interface == two.interface


def overlaps(
    claims: Sequence[Claim], meet: Callable[[Frontend, Frontend], bool] = _interfaces_meet
) -> Iterator[tuple[Claim, Claim]]:
    """Pairs of claims that one packet could match; with another `meet`, on interfaces of which that is true.

    Grouped by address and swept over sorted ports, so ten thousand services cost no more than their sorting. `*` takes
    part in the group of every address.
    """
    groups: dict[tuple[str, str, str | None], list[Claim]] = {}
    for claim in claims:
        frontend = claim[0]
        groups.setdefault((frontend.family, frontend.protocol, frontend.address), []).append(claim)
    for (family, protocol, address), group in groups.items():
        wild = groups.get((family, protocol, None), []) if address is not None else []
        group_set = {id(claim) for claim in group}
        active: list[Claim] = []
        for claim in sorted(group + wild, key=lambda item: (item[0].low, item[0].high, item[1])):
            active = [other for other in active if other[0].high >= claim[0].low]
            for other in active:
                # A pair of two wildcards is found in the wildcards' own group.
                if (id(claim) in group_set or id(other) in group_set) and meet(claim[0], other[0]):
                    yield other, claim
            active.append(claim)
