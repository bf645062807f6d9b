# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether counts are spread as they should be."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from _natlb.probe import spread


@pytest.mark.parametrize(
    ("statistic", "degrees", "p"),
    [
        # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.4, upper-tail critical values.
        (2.706, 1, 0.10),
        (3.841, 1, 0.05),
        (10.828, 1, 0.001),
        (5.991, 2, 0.05),
        (7.815, 3, 0.05),
        (16.266, 3, 0.001),
        (18.307, 10, 0.05),
        (20.515, 5, 0.001),
        (124.342, 100, 0.05),
        (149.449, 100, 0.001),
    ],
)
def test_chi_square_agrees_with_the_printed_table(statistic: float, degrees: int, p: float) -> None:
    assert spread.chi_square_p(statistic, degrees) == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize(
    ("statistic", "degrees", "p"),
    [
        (0, 3, 1.0),
        (-1, 3, 1.0),
        (5, 0, 1.0),
        (math.inf, 3, 0.0),
        (1e6, 3, 0.0),
        (1e-12, 4000, 1.0),
        (4000, 4000, pytest.approx(0.497, abs=1e-3)),
    ],
)
def test_chi_square_at_its_ends(statistic: float, degrees: int, p: float) -> None:
    assert spread.chi_square_p(statistic, degrees) == p


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 50])
def test_chi_square_falls_as_the_statistic_grows(degrees: int) -> None:
    values = [spread.chi_square_p(step / 4, degrees) for step in range(400)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))
    assert all(0 <= value <= 1 for value in values)


def test_fair_dice_pass_as_often_as_they_should() -> None:
    rng = random.Random(7)
    expected = {"a": 5.0, "b": 3.0, "c": 2.0}
    low = 0
    for _round in range(1000):
        picked = rng.choices(list(expected), list(expected.values()), k=300)
        low += spread.spread_p({name: picked.count(name) for name in expected}, expected) < 0.05
    assert 25 <= low <= 80


EVEN = {"a": 1.0, "b": 1.0, "c": 1.0}
WEIGHTED = {"a": 5.0, "b": 3.0, "c": 2.0}
SHARES = {"a": 0.1, "b": 0.2, "c": 0.7}


@pytest.mark.parametrize(
    ("seen", "expected", "tolerance", "right"),
    [
        ({"a": 100, "b": 100, "c": 100}, EVEN, 0, True),
        ({"a": 101, "b": 100, "c": 99}, EVEN, 0, False),
        ({"a": 34, "b": 33, "c": 33}, EVEN, 0, True),
        ({"a": 35, "b": 33, "c": 32}, EVEN, 0, False),
        ({"a": 50, "b": 30, "c": 20}, WEIGHTED, 0, True),
        ({"a": 1, "b": 2, "c": 7}, SHARES, 0, True),
        ({"a": 1000, "b": 2000, "c": 7000}, SHARES, 0, True),
        ({"a": 110, "b": 100, "c": 90}, EVEN, 0.1, True),
        ({"a": 111, "b": 100, "c": 89}, EVEN, 0.1, False),
        ({"a": 100, "b": 75, "c": 56, "d": 42}, {**EVEN, "d": 1.0}, 0.1, False),
        ({"a": 300}, {"a": 2.0}, 0, True),
        ({"a": 150, "b": 150}, EVEN, 0, False),
        ({"a": 100, "b": 100, "c": 100, "stranger": 1}, EVEN, 0.5, False),
        ({"a": 100, "b": 100, "c": 100, "gone": 0}, EVEN, 0, True),
        ({}, EVEN, 9.0, False),
        ({"a": 1020, "b": 990, "c": 990}, EVEN, None, True),
        ({"a": 1200, "b": 900, "c": 900}, EVEN, None, False),
        ({"a": 1500, "b": 900, "c": 600}, WEIGHTED, None, True),
        ({"a": 1000, "b": 1000, "c": 1000, "stranger": 1}, EVEN, None, False),
        ({"a": 3000}, {"a": 1.0}, None, True),
        ({"a": 3000}, EVEN, None, False),
    ],
)
def test_judge(seen: dict[str, int], expected: dict[str, float], tolerance: float | None, right: bool) -> None:
    verdict = spread.judge(seen, expected, tolerance, 0.001)
    assert (verdict is None) == right
    for name in [] if verdict is None else {**expected, **{name: 1 for name, count in seen.items() if count}}:
        assert f"{name}: expected" in verdict


def test_judge_says_what_was_expected_and_seen() -> None:
    assert spread.judge({"web1": 100, "web2": 75, "x": 5}, {"web1": 1, "web2": 1}, 0, 0.001) == (
        "the spread of 180 answers is not the expected one (tolerance 0): "
        "web1: expected 90, seen 100; web2: expected 90, seen 75; x: expected none, seen 5"
    )


@pytest.mark.parametrize(
    ("values", "share", "result"),
    [
        ([], 0.5, None),
        ([4.0], 0.5, 4.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([1.0, 9.0], 0.99, 9.0),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[float], share: float, result: float | None) -> None:
    assert spread.percentile(values, share) == result
