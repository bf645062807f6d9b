# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several checks of one backend at once, for one that clients wait for in vain: a network that loses a packet now and
then does not lose all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from .attempt import Attempt, Done
from .state import Outcome


class Volley:
    """The first that is answered counts; it has failed once all have."""

    look_s = 0.0

    def __init__(self, make: Callable[[Done], Attempt], size: int, done: Done) -> None:
        self._done: Done | None = done
        self._under_way: list[Attempt] = []
        for _number in range(size):
            self._add(make)

    def _add(self, make: Callable[[Done], Attempt]) -> None:
        def done(outcome: Outcome) -> None:
            self._take(attempt, outcome)

        attempt = make(done)
        self._under_way.append(attempt)

    @property
    def is_connecting(self) -> bool:
        """Whether none of them has been accepted yet."""
        return all(attempt.is_connecting for attempt in self._under_way)

    def start(self) -> None:
        """Begin all of them."""
        for attempt in self._all():
            if attempt in self._under_way:
                attempt.start()

    def poll(self) -> None:
        """See whether one has ended."""
        for attempt in self._all():
            attempt.poll()

    def late(self, within_s: float) -> None:
        """None was in time."""
        for attempt in self._all():
            attempt.late(within_s)

    def close(self) -> None:
        """Give up all of them."""
        self._done = None
        for attempt in self._all():
            attempt.close()
        self._under_way.clear()

    def _all(self) -> Sequence[Attempt]:
        return tuple(self._under_way)

    def _take(self, attempt: Attempt, outcome: Outcome) -> None:
        if attempt in self._under_way:
            self._under_way.remove(attempt)
        done = self._done
        if done is not None and (outcome.state != "down" or not self._under_way):
            self.close()
            done(outcome)
