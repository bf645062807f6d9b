# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What memory several processes have together: pages that they share counted once (PSS, see proc_pid_smaps(5)).

To add it up takes time from what is watched, so that runs on its own and is not timed.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

_PARENT, _SESSION = 1, 3


@dataclass
class Peak:
    """The most that was seen at any one moment."""

    mib: float = 0.0


@contextlib.contextmanager
def watched(processes: Callable[[], Iterable[int]], every_s: float) -> Iterator[Peak]:
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(every_s):
            peak.mib = max(peak.mib, sum(map(_pss_kib, processes())) / 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def session(leader: int) -> list[int]:
    """The processes of a session."""
    return [pid for pid, fields in _processes() if int(fields[_SESSION]) == leader]


def descendants(ancestor: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    children: dict[int, list[int]] = {}
    for pid, fields in _processes():
        children.setdefault(int(fields[_PARENT]), []).append(pid)
    found = list(children.get(ancestor, ()))
    for pid in found:
        found += children.get(pid, ())
    return found


def _processes() -> Iterator[tuple[int, list[str]]]:
    """The id of each, and the fields behind its name in /proc/PID/stat."""
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_text().rpartition(")")[2].split()


def _pss_kib(pid: int) -> int:
    """0 for a process that has gone meanwhile."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss: +(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0
