# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an operator has taken this host out (`natlb leave`), until `natlb join`.

It outlives reboots: whoever restarts a host for maintenance wants to look at it before it serves again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import HostError
from . import store
from .store import Paths


class Left(NamedTuple):
    """Who has taken the host out: since when, as `date.utc` writes it, why, and by which name. Each may be unknown."""

    since: str
    reason: str
    by: str = ""

    def __str__(self) -> str:
        since = f" since {self.since}" if self.since else ""
        return since + (f" ({self.by})" if self.by else "") + (f": {self.reason}" if self.reason else "")


class Away(NamedTuple):
    """All who have, the first one first; never nobody."""

    each: tuple[Left, ...]

    def __str__(self) -> str:
        remedy = "natlb join" if len(self.each) == 1 else "natlb join of each of them, or natlb join --all,"
        return f"this host has left{';'.join(map(str, self.each))} ({remedy} brings it back)"

    def of(self, by: str) -> Left | None:
        """That of this one."""
        return next((item for item in self.each if item.by == by), None)


def read(paths: Paths) -> Away | None:
    """None where the host has not left. One whose file cannot be read or understood has."""
    try:
        text = (paths.etc / store.LEFT).read_text("utf-8", "backslashreplace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        text = None
    found = store.mapping(text)
    others = found.get("others")
    every = [found, *(item for item in (others if isinstance(others, list) else []) if isinstance(item, dict))]
    return Away(tuple(Left(*(str(item.get(key) or "") for key in Left._fields)) for item in every))


def _write(paths: Paths, each: Sequence[Left]) -> None:
    """The first one as it always was, for programs of earlier versions."""
    first, *others = (item._asdict() for item in each)
    store.make_directory(paths.etc)
    store.write_text(paths.etc / store.LEFT, json.dumps({**first, "others": others}))


@contextlib.contextmanager
def _alone(paths: Paths) -> Iterator[None]:
    """One operator at a time, with the folder of the file itself as the lock: it needs no room on a full disk, and no
    /run. A run may hold the lock of the rules for long, and whoever takes a host out cannot wait for that. Raises
    `HostError`."""
    store.make_directory(paths.etc)
    with contextlib.ExitStack() as held:
        try:
            descriptor = os.open(paths.etc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise HostError(f"{paths.etc}: cannot be locked: {error.strerror}") from error
        yield


def told(paths: Paths) -> list[str]:
    """A warning where the host has left."""
    found = read(paths)
    return [str(found)] if found else []


def leave(paths: Paths, since: str, reason: str, by: str = "") -> Away | None:
    """Keep it; returns what was kept before, None where the host was here. For each who leaves the time stays when that
    was, and the reason is the last that was given.

    Raises `HostError` where nothing is declared: nobody would ask then."""
    if store.state_path(paths) is None:
        raise HostError("nothing is declared on this host (run natlb.netfilter.deploy)")
    with _alone(paths):
        before = read(paths)
        each = before.each if before else ()
        mine = before.of(by) if before else None
        now = Left((mine.since if mine else "") or since, reason or (mine.reason if mine else ""), by)
        if now != mine:
            _write(paths, [now if item is mine else item for item in each] if mine else [*each, now])
        return before


def join(paths: Paths, by: str = "", everyone: bool = False) -> tuple[Away | None, Away | None]:
    """Forget what this one has said, and what was said without a name; with `everyone` all. Returns what was kept
    before, and what is kept now."""
    if read(paths) is None:
        return None, None
    with _alone(paths):
        before = read(paths)
        rest = tuple(item for item in before.each if item.by not in (by, "")) if before and not everyone else ()
        if not rest:
            store.remove(paths.etc / store.LEFT)
        elif before and rest != before.each:
            _write(paths, rest)
        return before, Away(rest) if rest else None
