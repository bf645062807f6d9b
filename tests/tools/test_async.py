# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a task cannot ask of the module balancer."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_a_module_in_the_background_is_refused_with_the_reason(tmp_path: pathlib.Path) -> None:
    argv = [str(ROOT / "tools" / "run"), "ansible", "localhost", "-c", "local", "--check", "-B", "60"]
    argv += [
        "-e",
        f"ansible_python_interpreter={sys.executable}",
        "-m",
        "natlb.netfilter.balancer",
        "-a",
        "services=[]",
    ]
    done = subprocess.run(
        argv,
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    said = "async: this module cannot run in the background, since the controller confirms the change"
    assert said in done.stdout, done.stdout + done.stderr
