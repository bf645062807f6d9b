# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks that the balancer itself cannot make. They say nothing of a backend, so no event tells of them."""

from __future__ import annotations

from collections.abc import Hashable

from .state import Outcome

#: Many of them have one cause, and it may come and go: they are told of together, and no more often than this.
_EVERY_S = 60.0


class Unasked:
    """Those that could not be made when they were due last."""

    def __init__(self) -> None:
        self._reasons: dict[Hashable, str] = {}
        self._is_new = self._is_told = False
        self._told_at = float("-inf")

    def note(self, check: Hashable, target: str, outcome: Outcome) -> None:
        """What a check found."""
        if outcome.state != "unasked":
            self.discard(check)
            return
        reason = f"{target} cannot be checked: {outcome.reason}"
        self._is_new |= self._reasons.get(check) != reason
        self._reasons[check] = reason

    def discard(self, check: Hashable) -> None:
        """It is made no more."""
        self._reasons.pop(check, None)

    def told(self, now: float) -> str:
        """What is to be told now, if anything."""
        if not self._reasons and self._is_told:
            self._is_new = self._is_told = False
            return "all checks can be made again"
        if not self._reasons or not self._is_new or now < self._told_at + _EVERY_S:
            return ""
        self._is_new, self._is_told, self._told_at = False, True, now
        more = len(self._reasons) - 1
        return next(iter(self._reasons.values())) + (f" (and {more} more)" if more else "")
