# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an operator has taken this host out (`natlb leave`), until `natlb join`.

It outlives reboots: whoever restarts a host for maintenance wants to look at it before it serves again.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from ..errors import HostError
from . import store
from .store import Paths


class Left(NamedTuple):
    """Since when, as `date.utc` writes it, and why; both may be unknown."""

    since: str
    reason: str

    def __str__(self) -> str:
        since = f" since {self.since}" if self.since else ""
        why = f": {self.reason}" if self.reason else ""
        return f"this host has left{since}{why} (natlb join brings it back)"


def read(paths: Paths) -> Left | None:
    """None where the host has not left. One whose file cannot be read or understood has."""
    try:
        text = (paths.etc / store.LEFT).read_text("utf-8", "backslashreplace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        text = None
    found = store.mapping(text)
    return Left(str(found.get("since") or ""), str(found.get("reason") or ""))


def told(paths: Paths) -> list[str]:
    """A warning where the host has left."""
    found = read(paths)
    return [str(found)] if found else []


def leave(paths: Paths, since: str, reason: str) -> Left | None:
    """Keep it; returns what was kept before, None where the host was here. The time stays when it left, the reason is
    the last that was given.

    Raises `HostError` where nothing is declared: nobody would ask then."""
    if store.state_path(paths) is None:
        raise HostError("nothing is declared on this host (run natlb.netfilter.deploy)")
    before = read(paths)
    left = Left((before.since if before else "") or since, reason or (before.reason if before else ""))
    store.make_directory(paths.etc)
    store.write_text(paths.etc / store.LEFT, json.dumps(left._asdict()))
    return before


def join(paths: Paths) -> bool:
    """Forget it; returns whether the host had left."""
    before = read(paths)
    store.remove(paths.etc / store.LEFT)
    return before is not None
