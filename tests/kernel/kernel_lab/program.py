# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `natlb` on the balancer, as a run has left it there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run(root: str, variant: str | None, words: list[str], timeout_s: float = 60.0) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command line."""
    line = [*argv(root, variant), *words]
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, check=False)
    return done.returncode, done.stdout, done.stderr


def argv(root: str, variant: str | None) -> list[str]:
    """How a command line begins."""
    program = Path(root, "etc", "current", "natlb")
    return [sys.executable, "-I", str(program), *(["--variant", variant] if variant else []), "--root", root]
