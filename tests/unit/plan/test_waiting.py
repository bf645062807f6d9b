# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that waits and brings another program: the one that it replaces is not to follow it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from _natlb.errors import HostError
from _natlb.host import boot_set, staging, store
from _natlb.host.staging import Staging
from _natlb.plan import rollback, running, waiting
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
    paths, directory = store.Paths(tmp_path / "etc", tmp_path / "run"), tmp_path / "change"
    directory.mkdir()
    with staging.prepared(paths, Staging({PROGRAM: (OLD, 0o700)}, before=boot_set.links(paths.etc))) as put_in_place:
        put_in_place()
    rollback.restage(directory, Staging(None if brings is None else {PROGRAM: (brings, 0o700)}))
    loader = SimpleNamespace() if own is None else SimpleNamespace(digest=own)
    monkeypatch.setattr(waiting, "__loader__", loader)
    followed = []

    def carried_out(_request: object) -> None:
        followed.append(True)
        raise InterruptedError

    monkeypatch.setattr(waiting.apply, "carry_out_live", carried_out)
    with pytest.raises(HostError if refused else InterruptedError):
        running.carry_out(paths, None, directory)
    assert bool(followed) != refused
