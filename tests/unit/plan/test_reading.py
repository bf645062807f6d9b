# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look at a host that differs: it answers whatever becomes of the lock, and leaves what is there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _natlb.host import store
from _natlb.host.store import Paths
from _natlb.plan import reading
from _natlb.ruleset.sections import Key


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    def read(*_asked: Any) -> reading.Reading:
        plan: Any = SimpleNamespace(parts=[SimpleNamespace(differs=True)], files=None)
        return reading.Reading(plan, False, [])

    monkeypatch.setattr(reading, "_read", read)
    return Paths(tmp_path / "etc", tmp_path / "run")


def look(paths: Paths) -> list[str]:
    found = reading.read(paths, None, pending=False)
    assert found.drift
    return found.unread


def test_it_leaves_no_lock_where_nothing_is(paths: Paths) -> None:
    assert not look(paths)
    assert not paths.run.exists()


def test_it_leaves_what_is_known_of_a_host_whose_declaration_is_lost(paths: Paths) -> None:
    """The rules are live: the next run needs to know what the host was before, and what was found of backends."""
    known = {paths.run / name for name in (store.BEFORE, store.HEALTH)}
    for path in known:
        store.write_text(path, "{}")
    store.write_text(paths.etc / store.HISTORY, "{}")
    assert not look(paths)
    assert known <= set(paths.run.iterdir())
    assert (paths.etc / store.HISTORY).exists()


def test_it_leaves_the_lock_of_a_host_with_a_declaration(paths: Paths) -> None:
    store.write_text(paths.etc / store.STATE, "{}")
    assert not look(paths)
    assert list(paths.run.iterdir()) == [paths.run / "lock"]


def test_it_answers_where_the_lock_cannot_be_opened(paths: Paths) -> None:
    (paths.run / "lock").mkdir(parents=True)
    (remark,) = look(paths)
    assert remark.startswith(f"{paths.run}/lock: cannot be opened: Is a directory; ")
    assert remark.endswith("; what differs may be what somebody is about to change")


def test_it_answers_where_there_can_be_no_lock(paths: Paths) -> None:
    paths.run.write_text("in its place")
    (remark,) = look(paths)
    assert remark.startswith(f"{paths.run}: cannot be made: ")


@pytest.mark.parametrize(("age_s", "excused"), [(1, True), (reading.FOLLOWS_WITHIN_S + 5, False), (None, False)])
def test_what_boots_lags_behind_health_for_so_long_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float | None, excused: bool
) -> None:
    """An agent that cannot write it, as on a full disk, must not be excused for ever."""
    paths = Paths(tmp_path / "etc", tmp_path / "run")
    if age_s is not None:
        store.write_text(paths.run / store.HEALTH, "{}")
        then = time.time() - age_s
        os.utime(paths.run / store.HEALTH, (then, then))
    monkeypatch.setattr(reading.agent_files, "answers", lambda _request: True)
    key = Key("", "", "file", str(paths.etc / "current" / store.EFFECTIVE))
    records = [SimpleNamespace(effective=each) for each in ("before", "after")]
    files = SimpleNamespace(live={key: "before"}, wanted={}, differs=True)
    plan: Any = SimpleNamespace(parts=[files], files=files, records=records, request=SimpleNamespace(paths=paths))
    assert reading.Reading(plan, False, []).drift != excused
