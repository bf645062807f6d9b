# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often something may happen. Pure: time comes in."""

from __future__ import annotations

#: The part of the time that readings may take; the longest pause between them, in seconds.
BUSY, LONGEST_S = 0.2, 10.0
#: How long after the last change what boots follows.
SETTLE_S = 2.0
#: And after the first one at the latest, while changes go on.
UNSETTLED_S = 30.0


class Calm:
    """When the host may be read again. Readings that find nothing wrong make the pause longer: on some hosts somebody
    changes rules of their own every second."""

    def __init__(self) -> None:
        self.until = 0.0
        self._in_vain = 0

    def read(self, now: float, took_s: float, was_wrong: bool) -> None:
        """A reading has ended."""
        self._in_vain = 0 if was_wrong else self._in_vain + 1
        self.until = now + min(LONGEST_S, took_s / BUSY * 2.0 ** min(self._in_vain, 20))


class Settling:
    """When what boots is to follow health: once that was quiet for a while. A backend that flaps puts it off only so
    long."""

    def __init__(self) -> None:
        self.at: float | None = None
        self._since: float | None = None

    def changed(self, now: float) -> None:
        """Health has changed, and what boots does not know of it."""
        if self._since is None:
            self._since = now
        self.at = min(now + SETTLE_S, self._since + UNSETTLED_S)

    def done(self) -> None:
        """What boots follows, or soon will."""
        self.at = self._since = None


class Pace:
    """At most `burst` times at once, and `rate` times a second in the long run."""

    def __init__(self, burst: int, rate: float) -> None:
        self._burst, self._rate = float(burst), rate
        self._left, self._seen = float(burst), 0.0

    def take(self, now: float) -> bool:
        """Whether it may happen now; then it counts."""
        self._refill(now)
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def wait_s(self, now: float) -> float:
        """How long until it may."""
        self._refill(now)
        return max(0.0, (1 - self._left) / self._rate)

    def _refill(self, now: float) -> None:
        self._left = min(self._burst, self._left + max(0.0, now - self._seen) * self._rate)
        self._seen = now
