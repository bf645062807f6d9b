# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent's process does of a change that could not be made at first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _natlb.errors import HostError
from _natlb.host.store import Paths
from _natlb.model.effective import Finding, Place
from _natlb.plan import rollback
from _natlb.plan.running import Running

PLACE, OTHER = Place("web", "10.0.0.3", 80), Place("web", "10.0.0.4", 80)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One whose first attempt fails, since another run has the lock; `done` is what it did."""
    found: Any = Running(Paths(etc=tmp_path / "etc", run=tmp_path / "run"))
    found.done, busy = [], [True]

    @contextlib.contextmanager
    def lock(_paths: Paths) -> Iterator[None]:
        if busy.pop() if busy else False:
            raise HostError("another run")
        yield None

    monkeypatch.setattr(rollback, "lock_with_none_overdue", lock)
    monkeypatch.setattr(found, "_follow", lambda names, _directory: found.done.append(("follow", set(names))))
    monkeypatch.setattr(found, "_end_connections", lambda places: found.done.append(("end", list(places))))
    return found


def test_a_change_that_failed_is_made_whole_by_the_next_attempt(running: Any) -> None:
    running._findings = {PLACE: Finding("up")}
    down = {PLACE: Finding("down"), OTHER: Finding("down")}
    with pytest.raises(HostError):
        running.find(down)
    assert running.findings == {PLACE: Finding("up")}
    running.find(down)
    assert running.done == [("follow", {"web"}), ("end", [PLACE, OTHER])]
    assert running.findings == down
