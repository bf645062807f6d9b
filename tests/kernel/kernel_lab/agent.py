# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent on the balancer, as the program that a run has left there."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from . import program

_agents: dict[str, subprocess.Popen[bytes]] = {}


def start(root: str, variant: str | None) -> None:
    """Start it. What it says goes to a file."""
    with log(root).open("ab") as said:
        _agents[root] = subprocess.Popen([*program.argv(root, variant), "agent"], stdout=said, stderr=said)


def stop(root: str, number: int = signal.SIGTERM) -> int:
    """End it, and return its status."""
    process = _agents.pop(root)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        return process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def send(root: str, number: int) -> None:
    """Send it a signal, such as one that stops it for a while."""
    _agents[root].send_signal(number)


def log(root: str) -> Path:
    return Path(root, "agent.log")


def said(root: str) -> str:
    return log(root).read_text()


def wait_for(root: str, words: str, times: int = 1, within_s: float = 30.0) -> str:
    """Until it has said this so often. Returns all that it said."""
    give_up = time.monotonic() + within_s
    while said(root).count(words) < times:
        if time.monotonic() > give_up or _agents[root].poll() is not None:
            raise RuntimeError(f"the agent did not say {words!r}:\n{said(root)}")
        time.sleep(0.01)
    return said(root)


def wait_for_file(path: str, words: str, within_s: float = 30.0, times: int = 1) -> None:
    """Until a file holds these words so often."""
    give_up = time.monotonic() + within_s
    while not (os.path.exists(path) and Path(path).read_text().count(words) >= times):
        if time.monotonic() > give_up:
            raise RuntimeError(f"{path} does not say {words!r}")
        time.sleep(0.05)


def cost(root: str) -> dict[str, Any]:
    """Seconds of processor time, and MiB of memory."""
    pid = _agents[root].pid
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    memory = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return {
        "cpu_s": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
        "memory_mib": int(memory.split()[1]) / 1024,
    }
