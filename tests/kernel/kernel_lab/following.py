# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The script that keeps uplinks in place, running as its unit runs it; and waits for what it does."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

_WAIT_S = 30.0
#: So long `ip monitor` needs at most to hand on what has happened.
_QUIET_S = 0.3
_running: list[subprocess.Popen[str]] = []


def start(script: str, log: str) -> None:
    """Returns once it listens and has done its first round."""
    with open(log, "w", encoding="utf-8") as file:
        argv = ["/bin/sh", script, "follow"]
        _running.append(subprocess.Popen(argv, stderr=file, text=True, start_new_session=True))
    settle()


def settle() -> None:
    """Until it has done what there was to do and waits for something to happen: its `dd` sleeps."""
    give_up = time.monotonic() + _WAIT_S
    before = None
    while (now := _reader()) is None or now != before:
        if time.monotonic() > give_up:
            raise TimeoutError("the script does not come to listen")
        before = now
        time.sleep(_QUIET_S)


def _reader() -> int | None:
    """The process that waits for `ip monitor` to print something."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _unused, rest = stat.read_text().partition("(")[2].rpartition(")")
            state, _parent, group = rest.split()[:3]
            if (name, state, int(group)) == ("dd", "S", _running[-1].pid):
                return int(stat.parent.name)
    return None


def alive() -> bool:
    return _running[-1].poll() is None


def status() -> int:
    """How it ended."""
    return _running[-1].wait(_WAIT_S)


def stop() -> None:
    while _running:
        process = _running.pop()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(argv: list[str], text: str, there: bool = True) -> str:
    """Until what the program prints has the text, or has it no longer. What it printed last."""
    give_up = time.monotonic() + _WAIT_S
    while True:
        printed = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False).stdout
        if (text in printed) == there or time.monotonic() > give_up:
            return printed
        time.sleep(0.05)
