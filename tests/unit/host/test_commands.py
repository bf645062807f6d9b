# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several commands as one change: what fails ends it, and a run that is killed does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from _natlb.errors import CommandsError, HostError
from _natlb.host import processes, store

#: A run that is about to be killed: in the middle of its change it waits for somebody else's file.
RUN = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from _natlb.host import processes, store
root = pathlib.Path(sys.argv[2])
with store.lock(store.Paths(root / "etc", root / "run")):
    processes.run_commands([
        (f"cat > {root}/begun", ""),
        (f"for _ in $(seq 1000); do test -e {root}/on && break; sleep 0.01; done; cat > {root}/text", "the second"),
    ])
"""

#: Ctrl-C comes while a program is being started, just after its deadline has begun.
INTERRUPTED = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from _natlb.host import processes
start, threads = threading.Timer.start, []
def interrupted(timer):
    start(timer)
    threads.append(timer)
    raise KeyboardInterrupt
threading.Timer.start = interrupted
try:
    processes.run(["true"])
except KeyboardInterrupt:
    sys.exit(130 if threads else 1)
"""


def until(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.01)


def test_a_killed_run_is_carried_out_and_keeps_its_lock_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    argv = [sys.executable, "-c", RUN, str(Path(processes.__file__).parents[2]), str(tmp_path)]
    run = subprocess.Popen(argv, start_new_session=True)
    until(tmp_path / "begun")
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait(10) == -signal.SIGKILL
    with monkeypatch.context() as patch:
        patch.setattr(store, "LOCK_TIMEOUT_S", 0.2)
        with pytest.raises(HostError, match=f"process {run.pid}"), store.lock(paths):
            pass
    (tmp_path / "on").touch()
    with store.lock(paths):
        assert (tmp_path / "text").read_text() == "the second"


def test_nothing_is_done_behind_a_failure(tmp_path: Path) -> None:
    commands = [("true", ""), ("grep -q one", "two"), (f"cat > {tmp_path}/late", "")]
    with pytest.raises(CommandsError, match=r"^grep: ended with status 1$") as caught:
        processes.run_commands(commands)
    assert caught.value.done == 1
    assert list(tmp_path.iterdir()) == []


def test_what_goes_back_goes_on_behind_a_failure(tmp_path: Path) -> None:
    commands = [("echo wrong >&2; false", ""), (f"cat > {tmp_path}/late", "text"), ("echo again; false", "")]
    with pytest.raises(CommandsError, match="wrong / again"):
        processes.run_commands(commands, past_failures=True)
    assert (tmp_path / "late").read_text() == "text"


def test_programs_that_only_read_have_no_part_in_the_lock(tmp_path: Path) -> None:
    with store.lock(store.Paths(tmp_path / "etc", tmp_path / "run")):
        opened = processes.run(["ls", "-l", "/proc/self/fd"])
    assert "lock" not in opened


def test_an_interrupt_ends_it_at_any_moment() -> None:
    """Not when the deadline of the program that it was starting has passed, in ten minutes."""
    argv = [sys.executable, "-c", INTERRUPTED, str(Path(processes.__file__).parents[2])]
    assert subprocess.run(argv, timeout=60, check=False).returncode == 130
