# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups of a service serve besides, or instead of, its other backends. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

Backups = Literal["together", "one_for_one", "first"]
#: All of them once nobody else serves; one for each other backend that does not; the first of them once nobody does.
BACKUPS: tuple[Backups, ...] = ("together", "one_for_one", "first")

T = TypeVar("T")


def joining(how: Backups, able: Sequence[T], serving: int, out: int) -> Sequence[T]:
    """Those of the backups that can serve which do, in the order of the declaration. Of the others `serving` serve, and
    `out` do not."""
    if how == "one_for_one" and serving + out:
        return able[:out]
    if serving:
        return ()
    return able[:1] if how == "first" else able
