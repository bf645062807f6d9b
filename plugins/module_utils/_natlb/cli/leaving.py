# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb leave` and `natlb join`, by the name of who types them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..host import left
from ..host.date import utc
from ..host.store import Paths
from ..model import local_state


def _operator() -> str:
    """Who has become root to type this; empty where nobody knows."""
    return os.environ.get("SUDO_USER", "").strip()


def leave(paths: Paths, reason: str) -> Iterator[str]:
    """Take the host out; what is said of it."""
    by = _operator()
    before = left.leave(paths, utc(), local_state.line(reason), by)
    mine = before.of(by) if before else None
    why = f": {mine.reason}" if mine and mine.reason else ""
    yield f"had left already{why}" if mine else "left"
    for other in before.each if before else ():
        if other is not mine:
            yield f"others have as well{other}"


def join(paths: Paths, everyone: bool) -> str:
    """Take that back; what is said of it."""
    before, after = left.join(paths, _operator(), everyone)
    if after is None:
        return "joined" if before else "had not left"
    return "had not left" if before == after else "joined, and others keep this host out (natlb join --all)"
