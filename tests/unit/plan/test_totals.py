# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New connections of backends as numbers that never fall, whatever becomes of the slots that count them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from _natlb.errors import HostError
from _natlb.host import store
from _natlb.host.store import Paths
from _natlb.plan import totals
from _natlb.plan.totals import Key, Totals

WEB1, WEB2 = ("web", "10.0.0.3 8080"), ("web", "10.0.0.4 8080")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "etc", tmp_path / "run")


def counted(paths: Paths, reading: Mapping[Key, int]) -> Mapping[Key, int]:
    return totals.counted(paths, lambda: reading)


def test_slots_that_begin_anew_take_nothing_away() -> None:
    found = Totals({}, {})
    sums = []
    for reading in ({WEB1: 100, WEB2: 5}, {WEB1: 150, WEB2: 5}, {WEB1: 20, WEB2: 9}, {WEB1: 25}):
        found = totals.added(found, reading)
        sums.append(dict(found.sums))
    assert sums == [{WEB1: 100, WEB2: 5}, {WEB1: 150, WEB2: 5}, {WEB1: 150, WEB2: 9}, {WEB1: 155}]


def test_what_slots_had_counted_that_are_gone_counts() -> None:
    found = totals.added(Totals({}, {}), {WEB1: 100, WEB2: 5})
    found = totals.without(found, {WEB1: 130})
    assert totals.added(found, {WEB1: 20, WEB2: 9}).sums == {WEB1: 150, WEB2: 9}
    assert totals.added(totals.without(Totals({}, {}), {WEB1: 7}), {WEB1: 1}).sums == {WEB1: 8}, "before the first look"


def test_the_sums_are_kept(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not totals.are_asked_for(paths)
    assert counted(paths, {WEB1: 100}) == {WEB1: 100}
    assert totals.are_asked_for(paths)
    assert counted(paths, {WEB1: 40}) == {WEB1: 100}
    assert counted(paths, {WEB1: 41}) == {WEB1: 101}
    (paths.run / store.TOTALS).write_text("[")
    assert counted(paths, {WEB1: 41}) == {WEB1: 41}

    def full(*_unused: object) -> None:
        raise HostError("No space left on device")

    monkeypatch.setattr(store, "write_text", full)
    assert counted(paths, {WEB1: 45}) == {WEB1: 45}, "they are told nevertheless"
    assert counted(paths, {WEB1: 50}) == {WEB1: 50}


def test_what_is_taken_is_kept_until_somebody_asks(paths: Paths) -> None:
    counted(paths, {WEB1: 100, WEB2: 10})
    totals.taken(paths, {WEB1: 0})
    assert not (paths.run / store.TAKEN).exists(), "nothing to keep"
    totals.taken(paths, {WEB1: 30, WEB2: 0})
    with (paths.run / store.TAKEN).open("a") as file:
        file.write('["web", "10.0.0.3 80')
    totals.taken(paths, {WEB1: 40, WEB2: 12})
    with (paths.run / store.TAKEN).open("a") as file:
        file.write('["web", "10.0.0.3 80')
    assert counted(paths, {WEB1: 31, WEB2: 0}) == {WEB1: 101, WEB2: 12}
    assert not (paths.run / store.TAKEN).exists()
    assert counted(paths, {WEB1: 31, WEB2: 0}) == {WEB1: 101, WEB2: 12}, "it counts once"


def test_the_file_stays_small_where_nobody_asks(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totals, "MOST_BYTES", 500)
    counted(paths, {WEB1: 0})
    for _unused in range(100):
        totals.taken(paths, {WEB1: 1})
        path = paths.run / store.TAKEN
        assert not path.exists() or path.stat().st_size <= 500
    assert counted(paths, {WEB1: 5}) == {WEB1: 105}


def test_who_is_slower_reads_again(paths: Paths) -> None:
    """Slots are taken away, or another one has asked, between a reading and what is made of it."""
    counted(paths, {WEB1: 100})
    readings = [{WEB1: 110}, {WEB1: 15}]

    def read() -> Mapping[Key, int]:
        found = readings.pop(0)
        if readings:
            totals.taken(paths, {WEB1: 112})
        return found

    assert totals.counted(paths, read) == {WEB1: 127}
    readings = [{WEB1: 16}, {WEB1: 25}]

    def overtaken() -> Mapping[Key, int]:
        found = readings.pop(0)
        if readings:
            assert counted(paths, {WEB1: 20}) == {WEB1: 132}
        return found

    assert totals.counted(paths, overtaken) == {WEB1: 137}
    assert counted(paths, {WEB1: 25}) == {WEB1: 137}
