# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A line a minute where pytest runs with several processes: how far it is, and what it does now.

pytest itself shows a dot for each test, and no name as long as a test runs. Scenarios take minutes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence

import pytest

#: Seconds between two lines; NATLB_PROGRESS_S says otherwise, and 0 turns them off.
EVERY_S = 60.0
_NAMED = 4


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Only where others run the tests: a single process tells of each file already. The last of these hooks, since
    pytest makes what it writes with in one of them."""
    every_s = float(os.environ.get("NATLB_PROGRESS_S") or EVERY_S)
    spread = getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput")
    if every_s > 0 and spread and not config.option.collectonly and config.option.verbose >= 0:
        config.pluginmanager.register(Progress(config, every_s), "natlb-progress")


def line(done: int, of: int, failed: int, took_s: float, running: Iterable[str]) -> str:
    """Pure. `running` are the names of tests, those that began first at the beginning."""
    files = list(dict.fromkeys(name.partition("::")[0] for name in running))
    now = ", ".join(files[:_NAMED]) + (", …" if len(files) > _NAMED else "")
    words = [f"{done:,} of {of:,} tests", *([f"{failed:,} failed"] if failed else []), f"{took_s / 60:.0f} min"]
    return f"progress: {', '.join(words)}" + (f"; now: {now}" if now else "")


class Progress:
    """What the process that hands the tests out hears of them."""

    def __init__(self, config: pytest.Config, every_s: float) -> None:
        self._writer = config.get_terminal_writer()
        self._every_s, self._began = every_s, time.monotonic()
        self._total, self._done = 0, 0
        self._failed: set[str] = set()
        #: In the order in which they began.
        self._running: dict[str, None] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True, name="progress")

    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        self._total = len(ids)
        if not self._thread.is_alive() and not self._end.is_set():
            self._thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)
        self._done += 1

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Nothing comes between the lines of the summary."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _tell(self) -> None:
        while not self._end.wait(self._every_s):
            took_s = time.monotonic() - self._began
            told = line(self._done, self._total, len(self._failed), took_s, list(self._running))
            # Dots of pytest may stand there.
            self._writer.line(f"\n{told}" if self._writer.width_of_current_line else told)
            self._writer.flush()
