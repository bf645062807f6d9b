# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of changes of health: which changes, how many of them, and what a damaged file says."""

from __future__ import annotations

import json

import pytest
from _natlb.model import history
from _natlb.model.effective import Finding, Place
from hypothesis import given
from hypothesis import strategies as st

HOST = "0123456789abcdef"
WEB, OTHER = Place("web", "10.0.0.3", 80), Place("web", "10.0.0.4", None)
DOWN, UP = Finding("down", "2026-11-26T01:00:00Z", "refused"), Finding("up", "2026-11-26T01:05:00Z", "it answers")


def at(number: int, state: str = "down", reason: str = "refused") -> Finding:
    return Finding(state, f"2026-11-26T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z", reason)


@pytest.mark.parametrize(
    ("before", "found", "is_one"),
    [
        ({}, UP, False),
        ({}, DOWN, True),
        ({}, Finding("drain"), True),
        ({WEB: UP}, DOWN, True),
        ({WEB: DOWN}, UP, True),
        ({WEB: DOWN}, Finding("down", "", "for another reason"), False),
        ({WEB: UP}, Finding("up", share=0.3), False),
    ],
)
def test_changes_are_of_states(before: dict[Place, Finding], found: Finding, is_one: bool) -> None:
    assert history.changes(before, {WEB: found}) == ({WEB: found} if is_one else {})


def test_what_is_written_is_read_again() -> None:
    text = history.head(HOST) + history.lines({WEB: DOWN, OTHER: DOWN}) + history.lines({WEB: UP})
    assert history.parse(text, HOST) == {WEB: [DOWN, UP], OTHER: [DOWN]}
    assert history.parse(text, "another") == {}, "an image that was copied"
    assert history.parse(text, "") == {WEB: [DOWN, UP], OTHER: [DOWN]}, "a host without an identity"


GOOD = history.lines({WEB: DOWN})


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (None, 0),
        ("", 0),
        ("{", 0),
        (GOOD, 0),
        (history.head(HOST) + GOOD[: len(GOOD) // 2], 0),
        (history.head(HOST) + GOOD[: len(GOOD) // 2] + "\n" + GOOD, 1),
        (history.head(HOST) + "[]\n5\nnull\n" + "[" * 50000 + "\n" + GOOD, 1),
        (history.head(HOST) + GOOD.replace("down", "asleep") + GOOD, 1),
        (history.head(HOST) + GOOD.replace("10.0.0.3", "10.0.0.300") + GOOD, 1),
    ],
)
def test_lines_that_say_nothing_are_passed_over(text: str | None, count: int) -> None:
    assert sum(map(len, history.parse(text, HOST).values())) == count


def test_the_last_changes_of_each_are_kept() -> None:
    text = history.head(HOST) + "".join(history.lines({WEB: at(number)}) for number in range(25))
    (found,) = history.parse(text, HOST).values()
    assert [item.since[-3:-1] for item in found] == [f"{number:02}" for number in range(15, 25)]
    short = history.bounded(text + history.lines({OTHER: DOWN}), HOST)
    assert short.count("\n") == 1 + history.MOST_CHANGES + 1
    assert history.parse(short, HOST) == {WEB: found, OTHER: [DOWN]}


def test_a_file_never_grows_beyond_its_bytes() -> None:
    """Two thousand backends that flap with long reasons: the last changes stay."""
    places = [Place(f"service-{number}", "10.0.0.3", 80) for number in range(2000)]
    text = history.bounded(None, HOST)
    longest = 0
    for number in range(12):
        text += history.lines({place: at(number, reason="x" * 300) for place in places})
        longest = max(longest, len(text))
        if len(text) > history.MOST_BYTES:
            text = history.bounded(text, HOST)
            assert len(text) <= history.MOST_BYTES // 2 + 100
    assert longest < 3 * history.MOST_BYTES
    found = history.parse(text, HOST)
    assert {items[-1].since[-3:-1] for items in found.values()} <= {"10", "11"}
    assert len(found) > 1000
    print(f"longest: {longest / 1e6:.1f} MB, kept: {len(text) / 1e6:.1f} MB of {len(found)} backends")


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    history.parse(text, HOST)
    history.bounded(text, HOST)
    assert json.loads(history.bounded(history.head(HOST) + text, HOST).splitlines()[0])["host"] == HOST


@pytest.mark.parametrize(
    ("kept", "now", "expected"),
    [
        ([], None, []),
        ([DOWN], None, []),
        ([], UP, []),
        # Its file is younger than what is found of it, as after an upgrade.
        ([], DOWN, [DOWN]),
        ([], Finding("down"), []),
        ([DOWN], DOWN, [DOWN]),
        # Its checks were taken away, and declared again when it was well.
        ([DOWN], UP, [DOWN, UP]),
        ([DOWN], Finding("up"), [DOWN]),
    ],
)
def test_a_backend_has_its_history_up_to_now(kept: list[Finding], now: Finding | None, expected: list[Finding]) -> None:
    assert history.of({WEB: kept} if kept else {}, WEB, now) == expected
