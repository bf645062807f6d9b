# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from the results of checks: the state of a backend, when it is asked again, its weight as it comes back.

Pure: time comes in, in seconds of a clock that never goes back.
"""

from __future__ import annotations

import zlib
from typing import Literal, NamedTuple

from ..model.health import Health

State = Literal["unknown", "up", "down", "drain"]
#: Of these weights one follows the other while a backend comes back.
RAMP_STEPS = 10
#: A backend that goes down so soon after it came back is flapping. Each time, it takes twice as many successes to come
#: back; the number is doubled so many times at most.
FLAPPING_S, MOST_DOUBLINGS = 300.0, 3
#: First checks are spread over the interval, but over no more than this.
LONGEST_SPREAD_S = 10.0
#: Checks begin at multiples of this, or of that part of their interval where it is less: those that fall together share
#: one wake of the agent, which costs more than a check.
GRID_S, GRID_PART = 0.1, 1 / 20
#: Checks that are due within so long begin together with one that is.
EARLY_S = 0.01
#: What sums of times are wrong by at most.
_HAIR_S = 1e-6


class Outcome(NamedTuple):
    """What one check found. `unasked` is a check that the balancer itself could not make: it says nothing.

    `weight` is the share of its weight that the backend asks for. What is `certain`, the backend said itself, and it
    holds without being found again.
    """

    state: Literal["up", "down", "drain", "unasked"]
    reason: str = ""
    weight: float | None = None
    certain: bool = False


class BackendState:
    """The state of what one check asks. Before the first verdict it is the one that was kept, or `unknown`."""

    __slots__ = ("_back_at", "_flaps", "_suspected", "_towards", "count", "reason", "state", "weight")

    def __init__(self, kept: State = "unknown") -> None:
        self.state: State = kept
        self.reason = ""
        self.weight: float | None = None
        #: How many results in a row spoke for one other state.
        self.count = 0
        self._towards: str = kept
        self._suspected = False
        #: When it last came back from being down, and how often in a row it went down soon after that.
        self._back_at = float("-inf")
        self._flaps = 0

    def take(self, outcome: Outcome, fall: int, rise: int, now: float) -> bool:
        """Take a result; whether state or weight are others now. `reason` says why, for people."""
        if outcome.state == "unasked":
            return False
        if outcome.certain:
            return self._become(outcome.state, outcome.reason, outcome.weight, now)
        if outcome.state == self.state:
            self._settle()
            return False
        if outcome.state != self._towards:
            self._settle()
        self._towards = outcome.state
        self.count += 1
        needed = self.needed(fall, rise)
        if self.count < needed:
            return False
        return self._become(outcome.state, self._why(outcome, needed), None, now)

    def needed(self, fall: int, rise: int) -> int:
        """How many results in a row it takes until the state is another one: that of the last result, if that is."""
        towards = self._towards if self._towards != self.state else "up" if self.state == "down" else "down"
        # Who has never failed need not rise.
        return fall if towards == "down" else 1 if self.state == "unknown" else rise * self.damping

    @property
    def damping(self) -> int:
        """By how much more often it has to succeed to come back, since it was flapping."""
        return 1 << self._flaps

    def _why(self, outcome: Outcome, needed: int) -> str:
        if outcome.state != "down" and self.state == "unknown":
            return ""
        found = "clients get no answer" if self._suspected else f"{self.count} of {needed}"
        return f"{outcome.reason}, {found}"

    def _become(self, state: State, reason: str, weight: float | None, now: float) -> bool:
        self._settle()
        if (state, weight) == (self.state, self.weight):
            return False
        if state == "down":
            self._flaps = min(self._flaps + 1, MOST_DOUBLINGS) if now < self._back_at + FLAPPING_S else 0
        elif self.state == "down":
            self._back_at = now
        self.state, self.reason, self.weight = state, reason, weight
        self._settle()
        return True

    def _settle(self) -> None:
        self.count, self._towards, self._suspected = 0, self.state, False

    @property
    def is_suspected(self) -> bool:
        """Whether the next failure is enough, since clients get no answer."""
        return self._suspected

    def relent(self) -> None:
        """Somebody has had an answer, so the next failure is one like others."""
        if self._suspected:
            self._settle()

    def suspect(self, fall: int) -> None:
        """Clients get no answer: that is worth all failures but one, so that one check decides."""
        if self.state != "down" and not (self._towards == "down" and self.count >= fall - 1):
            self._towards, self.count, self._suspected = "down", fall - 1, True


def chance(identity: str, number: int = 0) -> float:
    """From 0 to 1, the same each time for one identity and number."""
    return zlib.crc32(f"{number} {identity}".encode()) / 2**32


def first_due(identity: str, health: Health, now: float) -> float:
    """When a backend is asked for the first time: all of them never at once."""
    return max(now, _on_grid(now + chance(identity) * min(health.interval_s, LONGEST_SPREAD_S), health.interval_s))


def next_due(identity: str, health: Health, changing: bool, started: float, number: int) -> float:
    """When it is asked again, after a check (its `number`) that began at `started`.

    Intervals count from start to start, and jitter only makes them shorter. So a dead backend is down within
    fall * interval + timeout. Checks with jitter are meant to be apart, and follow no grid.
    """
    fast = health.fast_interval_s
    interval = fast if changing and fast is not None else health.interval_s
    if not health.jitter_s:
        return _on_grid(started + interval, interval)
    return started + interval - min(health.jitter_s, interval / 2) * chance(identity, number)


def _on_grid(moment: float, interval_s: float) -> float:
    """The last moment until then at which checks with this interval begin."""
    grid_s = min(GRID_S, interval_s * GRID_PART)
    # One that began a little early, together with others, stays at its place: this is not to add up.
    return (moment + min(EARLY_S, grid_s / 2)) // grid_s * grid_s


def ramp(elapsed_s: float, slow_start_s: float) -> tuple[float | None, float | None]:
    """The share of its weight that a backend gets so long after it came back, and after how long it gets the next one.

    (None, None) where it has all of its weight.
    """
    if slow_start_s <= 0:
        return None, None
    steps = RAMP_STEPS - 1
    # A step that is due by a hair is due: its time was added to another by whoever asks.
    step = int(elapsed_s * steps / slow_start_s + _HAIR_S)
    return ((step + 1) / RAMP_STEPS, (step + 1) * slow_start_s / steps) if step < steps else (None, None)


def elapsed_s(share: float, slow_start_s: float) -> float:
    """How long ago a backend came back that gets this share of its weight."""
    return max(0.0, share * RAMP_STEPS - 1) * slow_start_s / (RAMP_STEPS - 1)
