# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run leaves for the next one where /run is full; what the next one makes of it is tested in
tests/kernel/test_last_declaration.py."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _natlb.errors import HostError
from _natlb.host import store
from _natlb.host.store import Paths
from _natlb.model.entities import EMPTY
from _natlb.model.surroundings import Surroundings
from _natlb.plan import apply, last_declaration
from _natlb.plan.unchanged import Asked
from _natlb.ruleset.normal_form import NormalForm
from _natlb.ruleset.sections import Key, Ruleset, Section

RULES: Ruleset = {Key("ip", "natlb", "chain", "web"): Section((), ("accept",))}
OLD, NEW = ({"sections": {"ip natlb chain web": [text, [], [text]]}} for text in ("old", "new"))


class Engine:
    title = "nftables"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "etc", tmp_path / "run")


def plan(paths: Paths, entry: Any) -> Any:
    """As much of a plan as is looked at, of a run that was preceded by another one."""
    engine: Any = Engine()
    store.write_text(paths.run / store.NORMAL, json.dumps({engine.title: OLD}))
    request = SimpleNamespace(paths=paths, before=None)
    normal = NormalForm(engine, RULES, RULES, entry)
    return SimpleNamespace(request=request, known=last_declaration.known_forms(paths), normal=[normal])


def key(made: Any) -> str:
    around = Surroundings([], {}, {})
    engine: Any = Engine()
    return last_declaration.rules_key(engine, EMPTY, EMPTY, around, made.known, 1)


def is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_unused: object) -> None:
        raise HostError("No space left on device")

    monkeypatch.setattr(store, "write_text", full)


def test_forms_are_left_for_the_next_run(paths: Paths) -> None:
    made = plan(paths, NEW)
    former = key(made)
    apply._keep_normal_form(made)
    assert made.known == last_declaration.known_forms(paths)
    assert made.known.forms == {"nftables": NEW}
    assert key(made) not in ("", former)


def test_where_nothing_is_new_nothing_is_written(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    made = plan(paths, OLD)
    former = made.known
    is_full(monkeypatch)
    apply._keep_normal_form(made)
    assert made.known == former


def test_where_they_cannot_be_left_the_former_ones_are_not_believed(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would build on the rules of the run before, and a backend that was disabled came back."""
    made = plan(paths, NEW)
    is_full(monkeypatch)
    assert apply._tidied(made, True) == ["the change is made, but No space left on device"]
    assert key(made) == ""
    assert last_declaration.known_forms(paths).forms == {}


def test_where_the_kernel_does_not_tell_them_either(paths: Paths) -> None:
    def listed() -> Ruleset:
        raise HostError("nft was killed")

    made = plan(paths, None)
    made.normal[0].engine.listed = listed
    assert apply._tidied(made, True) == ["the change is made, but nft was killed"]
    assert key(made) == ""
    assert last_declaration.known_forms(paths).forms == {}


def test_a_declaration_that_cannot_be_kept_is_no_error(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is made by then: an error would undo it where it waits for its confirmation."""
    asked = Asked("key", "code", ["one"])
    last_declaration.keep(paths, asked, "{}", "rules")
    assert json.loads((paths.run / store.DECLARED).read_text())["services"] == ["one"]
    is_full(monkeypatch)
    last_declaration.keep(paths, asked, "{}", "rules")
    assert not (paths.run / store.DECLARED).exists()
