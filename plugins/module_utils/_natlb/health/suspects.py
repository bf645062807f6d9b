# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends that clients wait for in vain, told from connection tracking: they are checked at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Callable

from ..host import tracked
from ..model.entities import FAMILIES

#: How often it is looked. A connection without an answer in two looks is overdue: in a data centre an answer takes
#: milliseconds.
EVERY_S = 0.2
#: The part of the time that looks may take, where the table of connections is large.
BUSY = 0.02

Unanswered = Iterable[tuple[str, int, bytes]]


def _of_all_families() -> Iterator[tuple[str, int, bytes]]:
    for family in FAMILIES:
        for item in tracked.unanswered(family):
            yield *item.backend, item.original


class Suspects:
    """Looks now and then, and names the backends (address, port) whose connections are overdue."""

    def __init__(self, read: Callable[[], Unanswered] = _of_all_families) -> None:
        self._read = read
        self._before: set[tuple[str, int, bytes]] = set()
        self.due = 0.0

    def look(self, now: float) -> set[tuple[str, int]]:
        """Raises `HostError`."""
        # What it costs, not what it takes while others have the processor.
        began = time.process_time()
        found = set(self._read())
        took = time.process_time() - began
        self.due = now + max(EVERY_S, took / BUSY)
        overdue = {(address, port) for address, port, _connection in found & self._before}
        self._before = found
        return overdue
