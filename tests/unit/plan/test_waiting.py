# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that waits and brings another program: the one that it replaces is not to follow it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from _natlb.errors import OtherVersionError
from _natlb.host import store
from _natlb.host.staging import Staging
from _natlb.plan import rollback, waiting
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
