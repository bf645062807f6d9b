# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at the host finds, and whether the host has drifted from its last declaration.

A look changes nothing and holds no lock, so the agent, an order or a run may be half way meanwhile: what is said of a
backend is new already, and its rule is still the old one, or the other way round. That is no drift. So where anything
differs, the host is read once more with the lock held, under which all of them write.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

from ..errors import BusyError, HostError
from ..host import cleanup, store
from ..host.boot_set import CURRENT
from ..host.store import Paths
from ..model.choices import Variant
from . import agent_files, apply, waiting
from . import request as requests
from .apply import Plan
from .parts import Part

#: So long after the last change of health what boots may lag behind it.
FOLLOWS_WITHIN_S = 60.0


class Reading(NamedTuple):
    """The plan that a run with the last declaration would have, whether that is one of a change that `waits` for its
    confirmation, and warnings about what of it cannot be read."""

    plan: Plan
    waits: bool
    unread: list[str]

    @property
    def drift(self) -> bool:
        """Whether the host differs from the declaration. Of a change that waits, files are written with the
        confirmation."""
        files = self.plan.files
        if any(part.differs for part in self.plan.parts if part is not files):
            return True
        return not self.waits and files.differs and not _will_follow(self.plan)


def read(paths: Paths, variant: Variant | None, pending: bool) -> Reading:
    """Read the host; with `pending` by the declaration of a change that waits, if there is one. Raises `HostError`."""
    found = _read(paths, variant, pending)
    if not found.drift:
        return found
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.lock(paths))
        except BusyError as error:
            # Whoever looks at a host whose run hangs needs an answer most.
            found.unread.append(f"{error}; what differs may be what it is about to change")
            return found
        except HostError as error:
            # The same of a host whose /run is full or read-only.
            found.unread.append(f"{error}; what differs may be what somebody is about to change")
            return found
        found = _read(paths, variant, pending)
        # All may have been taken away meanwhile, and the lock is not to be what is left.
        cleanup.remove_lock_alone(paths)
    return found


def _read(paths: Paths, variant: Variant | None, pending: bool) -> Reading:
    live = waiting.live(paths) if pending else paths
    request, unread = requests.restored(live, variant)
    return Reading(apply.make_plan(request), live is not paths, unread)


def _will_follow(plan: Plan) -> bool:
    """Whether nothing differs but what the agent leaves for the next boot a while after each change of health."""
    before, after = plan.records
    if before.effective == after.effective or not agent_files.answers(plan.request):
        return False
    found = store.stamp(plan.request.paths.run / store.HEALTH)
    # One whose files cannot be written would be excused for ever.
    if found is None or abs(time.time() - found[2] / 1e9) > FOLLOWS_WITHIN_S:
        return False
    return all(_follows(plan.request.paths, Path(name)) for name in _differing(plan.files))


def _differing(part: Part) -> set[str]:
    """The names of the sections that differ."""
    keys = part.live.keys() | part.wanted.keys()
    return {key.name for key in keys if part.live.get(key) != part.wanted.get(key)}


def _follows(paths: Paths, path: Path) -> bool:
    """Whether this file depends on what is said and found of backends."""
    return path == paths.run / store.EFFECTIVE or (
        path.parent == paths.etc / CURRENT and path.name not in waiting.OF_THE_RUN
    )
