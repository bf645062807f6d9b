# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that waits and brings another program: the one that it replaces is not to follow it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _natlb.errors import OtherVersionError
from _natlb.host import processes, revision, store
from _natlb.host.revision import Revision
from _natlb.host.staging import Staging
from _natlb.model.entities import EMPTY
from _natlb.plan import rollback, waiting
from _natlb.plan.running import Running
from _natlb.plan.unit_files import PROGRAM

OLD, NEW = "# the old one: 0123\n", "# the new one: 4567\n"


@pytest.mark.parametrize(
    ("own", "brings", "refused"),
    [
        ("0123", NEW, True),
        # The one that waits.
        ("4567", NEW, False),
        # No program: a module of a run.
        (None, NEW, False),
        ("0123", OLD, False),
        ("0123", None, False),
    ],
)
def test_who_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None, brings: str | None, refused: bool
) -> None:
    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    directory = paths.run / rollback.DIRECTORY.format(token="1")
    store.make_directory(directory)
    (directory / "pending").write_text("1e12")
    rollback.restage(directory, Staging(None if brings is None else {PROGRAM: (brings, 0o700)}))
    loader = SimpleNamespace() if own is None else SimpleNamespace(digest=own)
    monkeypatch.setattr(waiting, "__loader__", loader)
    if refused:
        with pytest.raises(OtherVersionError) as caught, waiting.lock(paths):
            pass
        assert caught.value.program == brings
    else:
        with waiting.lock(paths) as found:
            assert found == directory


def test_a_change_that_waits_is_read_with_what_could_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / store.HEALTH
    paths = store.Paths(tmp_path / "etc", tmp_path / "run", staged={path: "found"})
    directory = paths.run / rollback.DIRECTORY.format(token="1")
    rollback.restage(directory, Staging({store.STATE: ("{}", 0o600)}))
    staged = waiting.view(paths, directory).staged
    assert (staged[path], staged[paths.etc / store.STATE]) == ("found", "{}")


class Numbered:
    """An engine, and what goes on while the program of the change runs: `before` changes rules, and `behind` it."""

    name = title = "nftables"

    def __init__(self, is_numbered: bool, moments: list[tuple[bool, bool]]) -> None:
        self.is_numbered, self.moments, self.commits, self.live = is_numbered, moments, 0, "wanted"

    def listed(self) -> str:
        return self.live

    def take_away(self) -> None:
        self.live, self.commits = "gone", self.commits + 1

    def run(self, argv: Sequence[str], _program: str) -> str:
        assert argv[-1] == "apply"
        before, behind = self.moments.pop(0)
        if before:
            self.take_away()
        changed = self.live != "wanted"
        if changed:
            self.live, self.commits = "wanted", self.commits + 1
        if behind:
            self.take_away()
        return "changed\n" if changed else "nothing to change\n"


QUIET, BEFORE, BEHIND, BOTH = (False, False), (True, False), (False, True), (True, True)


@pytest.mark.parametrize("is_numbered", [True, False], ids=["numbered", "legacy"])
@pytest.mark.parametrize(
    ("moments", "left", "known"),
    [
        ([QUIET], 0, True),
        ([BEFORE, QUIET], 0, True),
        # Somebody takes rules away once it has looked.
        ([BEHIND, QUIET, QUIET], 0, True),
        # Without numbers that looks like nothing.
        ([BEHIND, BEHIND, QUIET], 0, False),
        ([BOTH, BOTH, BOTH, QUIET], 1, False),
    ],
)
def test_rules_are_known_that_its_program_has_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_numbered: bool,
    moments: list[tuple[bool, bool]],
    left: int,
    known: bool,
) -> None:
    paths = store.Paths(tmp_path / "etc", tmp_path / "run")
    engine: Any = Numbered(is_numbered, list(moments))
    plan = SimpleNamespace(
        engine=engine,
        path=SimpleNamespace(tried=bool),
        laid=SimpleNamespace(findings={}, multiples={}),
        request=SimpleNamespace(config=EMPTY),
    )
    here: Any = Running(paths)
    here._plan = plan
    directory = paths.run / rollback.DIRECTORY.format(token="1")
    store.make_directory(directory)
    (directory / "pending").write_text("1e12")
    monkeypatch.setattr(processes, "run", engine.run)
    monkeypatch.setattr(revision, "current", lambda: Revision("boot", 1, engine.commits))
    here._leave_to(OtherVersionError(NEW))
    assert (len(engine.moments), here.is_current()) == (left, known)
    assert not known or engine.live == "wanted"
    assert here.is_left_to_another
