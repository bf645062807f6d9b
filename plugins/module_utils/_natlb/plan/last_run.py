# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When the last run was, how long it took, and whether it succeeded."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import HostError
from ..host import store
from ..host.store import Paths


class LastRun(NamedTuple):
    """`at` is in seconds since 1970."""

    at: float
    took_s: float
    succeeded: bool


@contextlib.contextmanager
def noted(paths: Paths) -> Iterator[None]:
    """Keep what becomes of the run within. Where nothing of natlb is on the host, before or after, nothing is kept."""
    began, succeeded = time.monotonic(), False
    try:
        yield
        succeeded = True
    finally:
        if store.state_path(paths) is not None:
            text = json.dumps(LastRun(time.time(), round(time.monotonic() - began, 3), succeeded))
            with contextlib.suppress(HostError):
                store.write_text(paths.run / store.LAST_RUN, text)


def read(paths: Paths) -> LastRun | None:
    try:
        return LastRun(*json.loads(store.read_text(paths.run / store.LAST_RUN) or "null"))
    except (ValueError, TypeError, HostError):
        return None
