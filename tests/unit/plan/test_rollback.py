# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits to undo a change: it runs before anything is changed, or the change is not made."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from _natlb.errors import HostError
from _natlb.host import boot_set, staging, store
from _natlb.host.staging import Staging
from _natlb.plan import rollback

DEADLINE_S = 60.0


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.Paths:
    """A host without systemd: that of this machine, if it has one, is not to be given units."""
    monkeypatch.setattr(rollback.os.path, "isdir", lambda _path: False)
    return store.Paths(tmp_path / "etc", tmp_path / "run")


def kept(paths: store.Paths, text: str) -> Staging:
    """A declaration that is kept."""
    return Staging({store.STATE: (text, 0o600)}, before=boot_set.links(paths.etc))


def gone(paths: store.Paths) -> Staging:
    """Nothing is kept any more."""
    return Staging({}, after=dict.fromkeys(boot_set.links(paths.etc)))


def put(paths: store.Paths, staged: Staging) -> None:
    with staging.prepared(paths, staged) as put_in_place:
        put_in_place()


def undone(paths: store.Paths) -> list[str]:
    deadline = time.monotonic() + DEADLINE_S
    while any(paths.run.glob("rollback.*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return (paths.run / store.UNDONE).read_text().splitlines()


def test_it_runs_when_the_change_begins(paths: store.Paths) -> None:
    token = rollback.arm(paths, 300, rollback.WayBack([]), Staging())
    (directory,) = rollback.pending(paths)
    assert (directory / "running").exists()
    assert not (directory / "undo").stat().st_mode & 0o111, "nothing executes it"
    rollback.confirm(paths, token)
    assert rollback.pending(paths) == []


@pytest.mark.parametrize("fault", ["exit 203", "syntax error ("])
def test_one_that_cannot_be_started_is_told_before_anything_is_changed(
    paths: store.Paths, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(rollback, "_HEAD", f"{fault}\n")
    monkeypatch.setattr(rollback, "START_TIMEOUT_S", 0.2)
    with pytest.raises(HostError, match=r"cannot be started, so nothing was changed \(to see why, run `/bin/sh /"):
        rollback.arm(paths, 300, rollback.WayBack([]), Staging())
    assert list(paths.run.glob("rollback.*")) == []


def test_what_could_not_be_put_back_is_told(paths: store.Paths, tmp_path: Path) -> None:
    rollback.arm(
        paths, 1, rollback.WayBack([("nobody-knows-this", ""), (f"cat > {tmp_path}/second", "done")]), Staging()
    )
    _when, *said = undone(paths)
    assert said[0] == "but not completely:"
    assert "nobody-knows-this" in said[1]
    assert (tmp_path / "second").read_text() == "done"


@pytest.mark.parametrize("place", ["_write_rules", "restage", "_start"])
def test_a_run_killed_while_it_arms_leaves_nothing(
    paths: store.Paths, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_words: object) -> None:
        raise Killed

    monkeypatch.setattr(rollback, place, killed)
    with pytest.raises(Killed):
        rollback.arm(paths, 0, rollback.WayBack([]), Staging())
    monkeypatch.setattr(rollback, "GRACE_S", 0)
    with rollback.lock_with_none_overdue(paths) as waiting:
        assert waiting is None
        assert list(paths.run.glob("rollback.*")) == []


def test_a_confirmation_whose_answer_was_lost_is_made_again(paths: store.Paths) -> None:
    token = rollback.arm(paths, 300, rollback.WayBack([]), kept(paths, "{}"))
    for _turn in range(3):
        rollback.confirm(paths, token)
    assert (paths.etc / store.STATE).exists()
    later = rollback.arm(paths, 300, rollback.WayBack([]), kept(paths, "{ }"))
    with pytest.raises(HostError, match="another run has replaced it"):
        rollback.confirm(paths, token)
    rollback.confirm(paths, later)


def test_a_removal_can_be_confirmed_again_though_it_leaves_nothing(paths: store.Paths) -> None:
    put(paths, kept(paths, "{}"))
    token = rollback.arm(paths, 300, rollback.WayBack([]), gone(paths))
    rollback.confirm(paths, token)
    assert not paths.etc.exists()
    assert not paths.run.exists()
    rollback.confirm(paths, token)
    put(paths, kept(paths, "{}"))
    with pytest.raises(HostError, match="another run has replaced it"):
        rollback.confirm(paths, token)


def test_a_removal_that_was_undone_is_not_confirmed(paths: store.Paths) -> None:
    put(paths, kept(paths, "{}"))
    token = rollback.arm(paths, 1, rollback.WayBack([]), gone(paths))
    undone(paths)
    with pytest.raises(HostError, match="nobody confirmed the change in time"):
        rollback.confirm(paths, token)
