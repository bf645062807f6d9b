# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of slots that a change takes away are kept, so that totals do not lose them. Costs nothing where nobody asks
for totals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Callable

from ..errors import HostError
from ..host import removed
from ..host.removed import Removed
from ..model.engine import Engine
from ..model.entities import Config
from . import totals
from .request import Request
from .totals import Key

#: What slots had counted that are gone, once the change is made.
Gone = Callable[[], Mapping[Key, int]]


@contextlib.contextmanager
def noted(request: Request, engine: Engine) -> Iterator[None]:
    """Around a change of the rules, with the lock held.

    No change fails because of totals: where their file cannot be written, as on a full /run, they are too low.
    """
    if not totals.are_asked_for(request.paths) or request.config.empty:
        yield
        return
    with contextlib.ExitStack() as stack:
        if engine.is_numbered:
            gone = _told(request.config, engine, stack.enter_context(removed.followed()))
        else:
            gone = _compared(request.config, engine)
        try:
            yield
        finally:
            with contextlib.suppress(HostError):
                totals.taken(request.paths, gone())


def _told(config: Config, engine: Engine, found: Callable[[], Removed]) -> Gone:
    return lambda: engine.counted_by(found(), config)


def _compared(config: Config, engine: Engine) -> Gone:
    """iptables-legacy does not tell what goes, so its counters are read before and afterwards. What comes in between is
    lost."""
    before: Mapping[Key, int] = {}
    with contextlib.suppress(HostError):
        before = engine.counters(config)[0]

    def gone() -> Mapping[Key, int]:
        now = engine.counters(config)[0] if before else {}
        return {key: max(0, count - now.get(key, 0)) for key, count in before.items()}

    return gone
