# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus' own tool, which checks metrics, rules and expressions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

UNPACKED = Path(__file__).parents[1] / ".cache" / "dev" / "root" / "usr" / "bin" / "promtool"


def promtool(*words: str, given: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """From the package that tools/setup has unpacked, or of the system. Standard error comes with the output."""
    found = str(UNPACKED) if UNPACKED.exists() else shutil.which("promtool")
    assert found, "promtool is missing: tools/setup dev fetches it (package prometheus)"
    return subprocess.run(
        [found, *words],
        input=given,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
