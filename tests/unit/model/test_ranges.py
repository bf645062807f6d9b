# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges, and boxes of two of them, that are to be told apart."""

from __future__ import annotations

import pytest
from _natlb.model.ranges import Box, boxes_apart
from hypothesis import given
from hypothesis import strategies as st

_ranges = st.tuples(st.integers(0, 9), st.integers(0, 4)).map(lambda pair: (pair[0], sum(pair)))


def pairs(box: Box) -> set[tuple[int, int]]:
    (low, high), (first, last) = box
    return {(one, two) for one in range(low, high + 1) for two in range(first, last + 1)}


@given(st.lists(st.tuples(_ranges, _ranges), max_size=8))
def test_any_boxes_apart(boxes: list[Box]) -> None:
    found = list(map(pairs, boxes_apart(boxes)))
    assert set().union(*found) == set().union(*map(pairs, boxes))
    assert sum(map(len, found)) == len(set().union(*found))


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [
        ([((0, 9), (5, 5)), ((0, 9), (6, 6))], [((0, 9), (5, 5)), ((0, 9), (6, 6))]),
        ([((0, 9), (5, 5)), ((3, 12), (6, 6))], [((0, 9), (5, 5)), ((3, 12), (6, 6))]),
        ([((0, 9), (0, 9)), ((0, 9), (5, 5))], [((0, 9), (0, 9))]),
        ([((0, 9), (0, 9)), ((5, 12), (5, 5))], [((0, 9), (0, 9)), ((10, 12), (5, 5))]),
        ([((0, 9), (0, 9)), ((0, 9), (5, 14))], [((0, 9), (0, 14))]),
    ],
)
def test_no_more_than_it_takes(boxes: list[Box], wanted: list[Box]) -> None:
    assert sorted(boxes_apart(boxes)) == wanted
