# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends that clients wait for in vain, told from connection tracking: they are checked at once.

A look walks through the whole table of the kernel, 10 ms where it has 262,144 buckets. So looks are rare, and a second
one follows soon only where connections are unanswered: those of a backend that is well are answered by then. A host
that forwards nothing meanwhile is looked at less often still.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Set
from typing import Callable, NamedTuple

from ..errors import HostError
from ..host import proc, tracked
from ..packets import Family, Protocol
from .pace import Pace

#: How often it is looked, and how soon again where a connection has no answer: in a data centre one takes milliseconds.
EVERY_S, AGAIN_S = 0.4, 0.2
#: How often it is looked where nothing is forwarded: clients of the host itself are not forwarded.
IDLE_S = 5.0
#: The part of the time that looks may take, where the table of connections is large; and how many second looks may be
#: made at once.
BUSY, BURST = 0.02, 10


class Suspect(NamedTuple):
    """A backend, by what connections to it are told by."""

    family: Family
    protocol: Protocol
    address: str
    port: int


#: Connections without an answer: the backend, and what tells them apart.
Unanswered = Iterable[tuple[Suspect, bytes]]


def _unanswered() -> Unanswered:
    for item in tracked.unanswered():
        yield Suspect(item.family, item.protocol, *item.backend), item.original


def _answered(suspect: Suspect) -> Set[bytes]:
    return {item.original for item in tracked.of_backend(*suspect) if item.answered}


class Suspects:
    """Looks now and then, and names the backends whose connections are overdue."""

    def __init__(
        self,
        read: Callable[[], Unanswered] = _unanswered,
        answered: Callable[[Suspect], Set[bytes]] = _answered,
        clock: Callable[[], float] = time.process_time,
        forwarded: Callable[[], object] = proc.forwarded_packets,
    ) -> None:
        self._read, self._answered, self._clock, self._forwarded = read, answered, clock, forwarded
        self._before: set[tuple[Suspect, bytes]] = set()
        #: Overdue, and named already: a connection speaks against its backend once.
        self._named: set[tuple[Suspect, bytes]] = set()
        self._again: Pace | None = None
        #: What was forwarded by the last look, and until when that may stand for one.
        self._traffic: object = None
        self._idle_until = 0.0
        self.due = 0.0

    def scan(self, now: float) -> set[Suspect]:
        """Those that are overdue. Raises `HostError`."""
        traffic = self._forwarded()
        if traffic == self._traffic and not self._before and now < self._idle_until:
            self.due = now + EVERY_S
            return set()
        self._traffic, self._idle_until = traffic, now + IDLE_S
        # What it costs, not what it takes while others have the processor.
        began = self._clock()
        found = set(self._read())
        took = self._clock() - began
        pause_s = max(EVERY_S, took / BUSY)
        self._again = self._again or Pace(BURST, 1 / pause_s)
        soon = bool(found) and self._again.take(now)
        self.due = now + (min(AGAIN_S, pause_s) if soon else pause_s)
        overdue = (found & self._before) - self._named
        self._named = (self._named & found) | overdue
        self._before = found
        return {suspect for suspect, _connection in overdue}

    def answered_from_now_on(self, suspect: Suspect) -> Callable[[], bool]:
        """Tells later whether a backend has answered anybody in between. Raises `HostError`."""
        then = self._answered(suspect)

        def has_answered() -> bool:
            try:
                return not self._answered(suspect) <= then
            except HostError:
                # Without an answer of the kernel it is not certain that there was none.
                return True

        return has_answered
