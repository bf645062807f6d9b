# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups of a service serve besides, or instead of, its other backends. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Literal, TypeVar

Backups = Literal["together", "one_for_one", "first"]
#: All of them once nobody else serves; one for each other backend that does not; the first of them once nobody does.
BACKUPS: tuple[Backups, ...] = ("together", "one_for_one", "first")

T = TypeVar("T")


def joining(
    how: Backups,
    backups: Sequence[T],
    serving: int,
    out: int,
    is_able: Callable[[T], bool],
    priority: Callable[[T], int],
) -> list[T]:
    """Which of the backups, in the order of the declaration, serve now. Of the others `serving` serve, and `out` do
    not.

    Backups of one priority are one spare, the one with the lowest number first; one whose priority is 0 is a spare by
    itself. One spare joins for each backend that does not serve, be it of those that have joined.
    """
    spares = _spares(backups, priority)
    if how == "one_for_one" and serving + out:
        found: list[T] = []
        for number, spare in enumerate(spares):
            if number >= out:
                break
            able = [backup for backup in spare if is_able(backup)]
            found += able
            out += len(spare) - len(able)
        return found
    if serving:
        return []
    able_ones = [able for able in ([b for b in spare if is_able(b)] for spare in spares) if able]
    return [backup for able in (able_ones[:1] if how == "first" else able_ones) for backup in able]


def _spares(backups: Sequence[T], priority: Callable[[T], int]) -> list[list[T]]:
    found: dict[tuple[int, int], list[T]] = {}
    for number, backup in enumerate(backups):
        found.setdefault((priority(backup), 0 if priority(backup) else number), []).append(backup)
    return [found[place] for place in sorted(found)]
