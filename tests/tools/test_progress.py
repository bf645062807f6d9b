# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of a run of the tests while it goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import progress
import pytest

TESTS = Path(__file__).resolve().parents[1]
SLOW = """
import os, pathlib, time

def test_quick():
    pass

def test_until_it_is_told():
    until = time.monotonic() + 30
    while "now: test_" not in pathlib.Path(os.environ["OUTPUT"]).read_text() and time.monotonic() < until:
        time.sleep(0.02)

def test_wrong():
    assert not {wrong}
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0, 7, 0, 20.0, []), "progress: 0 of 7 tests, 0 min"),
        ((3120, 9112, 0, 725.0, ["a.py::x[1]"]), "progress: 3,120 of 9,112 tests, 12 min; now: a.py"),
        (
            (1, 2, 1, 60.0, ["a.py::x", "a.py::y", "b.py::x"]),
            "progress: 1 of 2 tests, 1 failed, 1 min; now: a.py, b.py",
        ),
        (
            (1, 9, 0, 60.0, [f"{n}.py::x" for n in range(6)]),
            "progress: 1 of 9 tests, 1 min; now: 0.py, 1.py, 2.py, 3.py, …",
        ),
    ],
)
def test_a_line(given: tuple[int, int, int, float, list[str]], said: str) -> None:
    assert progress.line(*given) == said


def run(folder: Path, *words: str, every_s: str = "0.2") -> str:
    """All that pytest prints of two files, of which one test fails."""
    for number in (1, 2):
        (folder / f"test_{number}.py").write_text(SLOW.format(wrong=number == 2))
    output = folder / "output"
    argv = [sys.executable, "-m", "pytest", "-p", "progress", "-c", os.devnull, *words]
    # Not among the processes of those who run this test.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "NATLB_"))}
    environment = {**kept, "PYTHONPATH": str(TESTS), "NATLB_PROGRESS_S": every_s, "OUTPUT": str(output)}
    with output.open("w") as written:
        subprocess.run([*argv, f"--rootdir={folder}", "."], cwd=folder, env=environment, stdout=written, check=False)
    return output.read_text()


def test_several_processes(tmp_path: Path) -> None:
    told = run(tmp_path, "--numprocesses=2", "--dist=loadfile")
    lines = [text for text in told.splitlines() if "progress: " in text]
    assert lines
    assert all(
        re.fullmatch(r"progress: \d of 6 tests, (1 failed, )?0 min(; now: test_\d\.py(, test_\d\.py)?)?", text)
        for text in lines
    )
    assert any("; now: test_" in text for text in lines)
    dots = "".join(re.findall(r"^([.F]+)(?: *\[ *\d+%\])?$", told, re.MULTILINE))
    assert sorted(dots) == sorted(".....F"), "what pytest shows is all there"
    summary = told[told.index("short test summary info") :]
    assert "progress" not in summary
    assert "FAILED test_2.py::test_wrong" in summary
    assert "1 failed, 5 passed" in summary


@pytest.mark.parametrize(
    "words",
    [["-x", "-k", "quick"], ["--numprocesses=2", "--collect-only"], ["--numprocesses=2", "-q", "-k", "quick"]],
    ids=str,
)
def test_otherwise_it_is_quiet(tmp_path: Path, words: list[str]) -> None:
    told = run(tmp_path, *words, every_s="0.01")
    assert "progress:" not in told
    assert re.search("2 passed|6 tests collected|1 passed", told)


def test_it_can_be_turned_off(tmp_path: Path) -> None:
    told = run(tmp_path, "--numprocesses=2", "-k", "quick", every_s="0")
    assert "progress:" not in told
    assert "2 passed" in told
