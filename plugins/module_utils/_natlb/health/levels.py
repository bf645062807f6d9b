# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at the active connections of `least_connections` services now and then, and says how new ones are to be dealt.

The connections are read in a child process: of a hundred thousand that takes a second, and checks go on meanwhile.
"""

from __future__ import annotations

import os
import selectors
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, NamedTuple

from ..model.effective import Place
from ..model.entities import Backend, Service
from ..model.least_connections import multiples, place_of, with_hysteresis
from .forked import forked

#: How often it is looked, and the part of a processor that looks may take where there are many connections.
EVERY_S, BUSY = 1.0, 0.05
#: After a look that failed; the journal says why.
RETRY_S = 60.0
#: Connections are dealt so that they would be level after so many looks.
AHEAD = 2
_CHUNK = 1 << 18

Read = Callable[[Iterable[Service]], Iterable[tuple[Place, bytes]]]


class Sample(NamedTuple):
    """The active connections of each backend: a number for each, by which it is known again."""

    at: float
    active: Mapping[Place, set[int]]


class Levels:
    """`due` says when `begin` is to be called next. What a look has found is taken with `take`."""

    def __init__(self, selector: selectors.BaseSelector, read: Read) -> None:
        self._selector, self._read = selector, read
        self.due = float("inf")
        self._services: Sequence[Service] = ()
        self._before: Sample | None = None
        self._dealt: dict[Place, float] = {}
        self._child: _Child | None = None
        self._found: dict[Place, float] | None = None

    def set_services(self, services: Sequence[Service], dealt: Mapping[Place, float], now: float) -> None:
        """Level these from now on. `dealt` is how the slots are dealt."""
        self._services, self._dealt = services, dict(dealt)
        self.due = min(max(self.due, now), now + EVERY_S) if services and self._child is None else float("inf")

    def begin(self, now: float) -> None:
        """Look at the connections; the answer comes by the selector."""
        self.due = float("inf")
        places = [place_of(service, backend) for service in self._services for backend in service.backends]
        self._child = _Child(self._read, self._services, places)
        self._selector.register(self._child.output, selectors.EVENT_READ, lambda _mask: self._take_in(now, places))

    def take(self) -> dict[Place, float] | None:
        """How new connections are to be dealt; None where there is nothing new."""
        found, self._found = self._found, None
        return found

    def _take_in(self, began: float, places: Sequence[Place]) -> None:
        child = self._child
        if child is None or not child.receive():
            return
        self._selector.unregister(child.output)
        busy_s, numbers = child.end()
        self._child = None
        self.due = began + max(EVERY_S if numbers is not None else RETRY_S, busy_s / BUSY)
        if numbers is None:
            return
        active: dict[Place, set[int]] = {place: set() for place in places}
        for at in range(0, len(numbers), 2):
            active[places[numbers[at]]].add(numbers[at + 1])
        sample = Sample(began, active)
        if self._before is not None:
            self._found = self._levelled(self._before, sample)
            self._dealt.update(self._found)
        self._before = sample

    def _levelled(self, before: Sample, now: Sample) -> dict[Place, float]:
        found: dict[Place, float] = {}
        ahead = AHEAD * max(EVERY_S, self.due - now.at) / (now.at - before.at)
        for service in self._services:
            for family in service.families():
                backends = service.serving(family)
                found.update(self._of(service, backends, before, now, ahead))
        return found

    def _of(
        self, service: Service, backends: Sequence[Backend], before: Sample, now: Sample, ahead: float
    ) -> dict[Place, float]:
        places = [place_of(service, backend) for backend in backends]
        lasting = [len(now.active[place] & before.active.get(place, set())) for place in places]
        fresh = [len(now.active[place]) - count for place, count in zip(places, lasting)]
        # Of those that came since the last look as many count as are likely to last: what ends at once levels nothing.
        known = sum(len(before.active.get(place, ())) for place in places)
        likely = sum(lasting) / known if known else 0.0
        active = [old + likely * new for old, new in zip(lasting, fresh)]
        arrived = sum(fresh)
        weights = [backend.weight * backend.share for backend in backends]
        # Where hardly any come, the next few go where the fewest are.
        dealt = multiples(active, weights, max(arrived * ahead, len(places)))
        return dict(zip(places, with_hysteresis([self._dealt.get(place, 1.0) for place in places], dealt)))


class _Child:
    """A process that reads the connections, and writes for each the number of its backend and its own."""

    def __init__(self, read: Read, services: Sequence[Service], places: Sequence[Place]) -> None:
        self.output, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.output, False)
        self._parts: list[bytes] = []

        def tell() -> None:
            index = {place: number for number, place in enumerate(places)}
            numbers = array("q")
            for place, connection in read(services):
                numbers.extend((index[place], hash(connection)))
            with open(write, "wb") as pipe:
                pipe.write(numbers.tobytes())

        self._pid = forked(tell, "least_connections: ")
        os.close(write)

    def receive(self) -> bool:
        """Whether it has told all."""
        part = os.read(self.output, _CHUNK)
        self._parts.append(part)
        return not part

    def end(self) -> tuple[float, array[int] | None]:
        """The seconds of a processor that it took, and the numbers; None where it failed."""
        os.close(self.output)
        _pid, status, usage = os.wait4(self._pid, 0)
        numbers = array("q")
        numbers.frombytes(b"".join(self._parts))
        return usage.ru_utime + usage.ru_stime, numbers if status == 0 else None
