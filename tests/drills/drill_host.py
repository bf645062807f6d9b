# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the drills do on the balancer itself: runs in processes of their own, that are killed, starved or lied to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _natlb.plan import balance
from kernel_lab import run_once

RUN_TIMEOUT_S = 60


def _argv(root: str, before: Sequence[str]) -> list[str]:
    return [*before, sys.executable, run_once.__file__, str(Path(balance.__file__).parents[2]), root]


def run(root: str, request: dict[str, Any], before: Sequence[str] = ()) -> dict[str, Any]:
    """One run to its end; what it said, as `{"transaction", "token"}`, `{"error"}` or, where it broke, `{"broken"}`.

    `before` is the program that starts it, such as setpriv.
    """
    done = subprocess.run(
        _argv(root, before),
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"broken": done.stderr or f"exit status {done.returncode}"}
    return found


def kill(root: str, request: dict[str, Any], after_s: float, group: bool) -> bool:
    """A run that is killed after so long; with `group` together with the programs that it has started.

    True where it was still at work then.
    """
    process = subprocess.Popen(
        _argv(root, ()), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdin
    process.stdin.write(json.dumps(request))
    process.stdin.close()
    time.sleep(after_s)
    alive = process.poll() is None
    if alive and group:
        os.killpg(process.pid, signal.SIGKILL)
    elif alive:
        process.kill()
    process.wait(RUN_TIMEOUT_S)
    return alive


def at_rest(root: str, within_s: float = 10.0) -> None:
    """Wait until nobody changes the host any more: what a killed run has begun outlives it, and has its lock."""
    lock = Path(root, "run", "lock")
    if lock.exists():
        subprocess.run(["flock", "--timeout", str(within_s), str(lock), "true"], check=True)


def held(path: str, within_s: float = 10.0) -> None:
    """Wait until somebody has the lock."""
    deadline = time.monotonic() + within_s
    while subprocess.run(["flock", "--nonblock", path, "true"], check=False).returncode == 0:
        assert time.monotonic() < deadline, "nobody holds the lock"


def hold_lock(path: str, for_s: float) -> None:
    """As a run that hangs."""
    script = 'flock "$1" sleep "$2"'
    subprocess.run(["sh", "-c", script, "hold", path, str(for_s)], timeout=for_s + 10, check=True)
