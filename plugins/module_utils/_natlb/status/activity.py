# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What backends get: new connections, from the counters of the rules, and active ones, from connection tracking.

A reading costs processor time with every service and every connection, so it is for the caller to say how often.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from ..host import proc, tracked
from ..model.entities import Config
from ..packets import PROTOCOLS
from ..plan import engines
from ..plan.request import Request
from ..plan.stale_flows import Frontends
from ..plan.totals import Key


class Reading(NamedTuple):
    """New connections since the rules were loaded, and active ones; `at` is of the monotonic clock."""

    at: float
    new: Mapping[Key, int]
    active: Mapping[Key, int]

    def rates(self, before: Reading) -> dict[Key, float]:
        """New connections a second since another reading. Counters that were set back began at 0."""
        seconds = max(self.at - before.at, 1e-3)
        return {key: _grown(count, before.new.get(key, 0)) / seconds for key, count in self.new.items()}


def _grown(now: int, before: int) -> int:
    return now - before if now >= before else now


class Meter:
    """Reads what the backends of a configuration get."""

    def __init__(self, request: Request, config: Config) -> None:
        self._config = config
        self.engine = engines.choose_to_read(request.held_by, request.variant)[0]
        local = proc.local_addresses()
        found: dict[str, Frontends] = {protocol: Frontends(config, protocol, local) for protocol in PROTOCOLS}
        self._frontends = {protocol: frontends for protocol, frontends in found.items() if frontends}

    def read(self) -> Reading:
        """Raises `HostError`."""
        return Reading(time.monotonic(), self.new(), self.active())

    def new(self) -> dict[Key, int]:
        """New connections since the rules were loaded."""
        return self.engine.counters(self._config)[0]

    def active(self) -> Counter[Key]:
        counts: Counter[Key] = Counter()
        for family in self._config.families():
            groups = Counter(
                (item.protocol, item.target, item.backend) for item in tracked.translated(family) if item.active
            )
            for (protocol, target, backend), count in groups.items():
                frontends = self._frontends.get(protocol)
                for service in frontends.owners(family, target, backend)[:1] if frontends else ():
                    for found in islice(service.backends_at(backend, target[1]), 1):
                        counts[service.name, found.key] += count
        return counts


def spent_s() -> float:
    """Processor time of this process and of the programs that it has run."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
