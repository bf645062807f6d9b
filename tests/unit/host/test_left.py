# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of operators who have taken the host out, also by programs of earlier versions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from _natlb.cli import quick
from _natlb.host import left, store
from _natlb.host.store import Paths

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


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Of a host with a declaration, and without /run/natlb."""
    found = quick.paths(str(tmp_path))
    store.write_text(found.etc / store.STATE, "{}")
    return found


def at_once(does: Callable[[str], object], names: list[str]) -> None:
    """All of them begin in the same moment."""
    begin = threading.Barrier(len(names))

    def one(name: str) -> None:
        begin.wait()
        does(name)

    threads = [threading.Thread(target=one, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def names_of(away: left.Away | None) -> list[str]:
    return sorted(item.by for item in away.each) if away else []


def test_nobody_is_forgotten_of_those_who_leave_and_join_at_one_moment(paths: Paths) -> None:
    stay, go, come = ([f"{word}{n}" for n in range(8)] for word in ("stay", "go", "come"))
    at_once(lambda name: left.leave(paths, "then", "", name), [*stay, *go])
    assert names_of(left.read(paths)) == sorted([*stay, *go])

    def turn(name: str) -> None:
        if name in come:
            left.leave(paths, "now", "", name)
        else:
            left.join(paths, name)

    at_once(turn, [*go, *come])
    assert names_of(left.read(paths)) == sorted([*stay, *come])
    assert not paths.run.exists(), "the lock is none that a full /run keeps from being made"


def test_what_changes_nothing_writes_nothing(paths: Paths) -> None:
    assert left.join(paths, "alex") == (None, None)
    left.leave(paths, "then", "disk", "kim")
    written = store.stamp(paths.etc / store.LEFT)
    left.leave(paths, "later", "", "kim")
    assert names_of(left.join(paths, "alex")[1]) == ["kim"]
    assert store.stamp(paths.etc / store.LEFT) == written


def test_a_run_that_holds_the_lock_of_the_rules_keeps_nobody_here(paths: Paths) -> None:
    with store.lock(paths):
        left.leave(paths, "then", "disk", "kim")
    assert names_of(left.read(paths)) == ["kim"]


def test_nothing_is_made_where_nobody_has_left(tmp_path: Path) -> None:
    found = quick.paths(str(tmp_path))
    assert left.join(found) == (None, None)
    assert not found.etc.exists()
