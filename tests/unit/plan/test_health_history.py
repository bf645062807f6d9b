# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file of changes of health: it survives a restart and a reboot, stays small, and goes with the declaration."""

from __future__ import annotations

from pathlib import Path

import pytest
from _natlb.errors import HostError
from _natlb.host import cleanup, store
from _natlb.host.store import Paths
from _natlb.model import history
from _natlb.model.effective import Finding, Place
from _natlb.plan import health_history

WEB = Place("web", "10.0.0.3", 80)
DOWN, UP = Finding("down", "2026-11-26T01:00:00Z", "refused"), Finding("up", "2026-11-26T01:05:00Z", "it answers")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "etc", tmp_path / "run")


def test_nothing_is_written_where_nothing_happens(paths: Paths) -> None:
    health_history.note(paths, {})
    health_history.keep(paths)
    assert not paths.run.exists()
    assert not paths.etc.exists()
    assert health_history.read(paths) == {}


def test_it_survives_a_reboot(paths: Paths) -> None:
    health_history.note(paths, {WEB: DOWN})
    health_history.keep(paths)
    (paths.run / store.HISTORY).unlink()
    assert health_history.read(paths) == {WEB: [DOWN]}
    health_history.note(paths, {WEB: UP})
    assert health_history.read(paths) == {WEB: [DOWN, UP]}
    written = (paths.etc / store.HISTORY).stat().st_ino
    health_history.keep(paths)
    assert (paths.etc / store.HISTORY).stat().st_ino != written
    written = (paths.etc / store.HISTORY).stat().st_ino
    health_history.keep(paths)
    assert (paths.etc / store.HISTORY).stat().st_ino == written, "it is not written again for nothing"


def test_it_stays_small(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_BYTES", 4000)
    for number in range(100):
        health_history.note(paths, {WEB: Finding("down", f"2026-11-26T01:00:{number % 60:02}Z", "refused")})
        assert (paths.run / store.HISTORY).stat().st_size <= 4000
    assert len(health_history.read(paths)[WEB]) == history.MOST_CHANGES


def test_after_a_line_that_was_cut_the_next_one_counts(paths: Paths) -> None:
    health_history.note(paths, {WEB: DOWN})
    with (paths.run / store.HISTORY).open("a") as file:
        file.write('{"service": "web", "addr')
    health_history.note(paths, {WEB: UP})
    assert health_history.read(paths) == {WEB: [DOWN, UP]}


def test_it_goes_with_the_last_service(paths: Paths) -> None:
    health_history.note(paths, {WEB: DOWN})
    health_history.keep(paths)
    cleanup.remove_if_unused(paths)
    assert not paths.run.exists()
    assert not paths.etc.exists()


def test_a_folder_that_cannot_be_written_is_an_error(paths: Paths) -> None:
    paths.run.parent.mkdir(exist_ok=True)
    paths.run.write_text("a file")
    with pytest.raises(HostError):
        health_history.note(paths, {WEB: DOWN})
