# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that tests start: what they need, what they say, and their end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest


def require(programs: Iterable[str], purpose: str, remedy: str) -> None:
    """End the whole session where its tests cannot be run: they are run as root, with these programs."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.exit(f"{purpose}, but there is no {', '.join(missing)}: {remedy}", returncode=2)
    if os.geteuid():
        pytest.exit(f"{purpose}: run them as root", returncode=2)


def said(argv: Sequence[str], folder: Path, environment: Mapping[str, str], within_s: float = 600) -> tuple[int, str]:
    """Exit status of a program that finds nothing to read, and all that it printed: its output, then its errors."""
    done = subprocess.run(
        argv,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """Its process group, and what it has started that leads groups of its own, as Ansible's workers do since 2.19."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    doomed = [process.pid]
    for pid in doomed:
        doomed += [child for child, parent in parents.items() if parent == pid]
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
