# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of operators who have taken the host out, also by programs of earlier versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from _natlb.cli import quick
from _natlb.host import left, store

KIM = '"since": "then", "reason": "new kernel", "by": "kim"'


@pytest.mark.parametrize(
    ("text", "told", "taken_back_by_alex"),
    [
        ('{"since": "then", "reason": "disk"}', " since then: disk (natlb join", True),
        ("nobody can read this", " (natlb join", True),
        ("[]", " (natlb join", True),
        (f"{{{KIM}}}", " since then (kim): new kernel (natlb join", False),
        (f'{{{KIM}, "others": 7}}', " since then (kim): new kernel (natlb join", False),
        (
            f'{{{KIM}, "others": [{{"by": "alex"}}, 7]}}',
            " since then (kim): new kernel; (alex) (natlb join of each",
            False,
        ),
        (
            '{"reason": "disk", "others": [{"by": "alex", "since": "now"}]}',
            ": disk; since now (alex) (natlb join of",
            True,
        ),
    ],
)
def test_what_is_kept(tmp_path: Path, text: str, told: str, taken_back_by_alex: bool) -> None:
    paths = quick.paths(str(tmp_path))
    store.make_directory(paths.etc)
    (paths.etc / store.LEFT).write_text(text)
    assert str(left.read(paths)).startswith(f"this host has left{told}")
    before, after = left.join(paths, "alex")
    assert before is not None
    assert (after is None) == taken_back_by_alex
    assert left.read(paths) == after
    assert left.join(paths, "alex", everyone=True)[1] is None
    assert left.read(paths) is None
