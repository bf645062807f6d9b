# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges, and boxes of two of them, that are to be told apart."""

from __future__ import annotations

import ipaddress

import pytest
from _natlb.errors import ConfigError
from _natlb.model import values
from _natlb.model.ranges import Box, boxes_apart, collapsed, number_range
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


# -- networks, of which lists may have a hundred thousand: what is quick here says what `ipaddress` does ---------------

_texts = st.builds(
    "{}/{}".format,
    st.integers(0, 255).map(lambda byte: f"10.0.{byte & 3}.{byte & 252}")
    | st.integers(0, 15).map("2001:db8::{:x}".format),
    st.integers(22, 34) | st.integers(118, 129),
)


def strict(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


@given(st.lists(_texts, max_size=12))
def test_any_networks_collapsed(texts: list[str]) -> None:
    found = [network for network in map(strict, texts) if network]
    wanted = [
        str(network)
        for version in (4, 6)
        for network in ipaddress.collapse_addresses([item for item in found if item.version == version])
    ]
    assert list(collapsed(tuple(map(str, found)))) == wanted


@given(
    _texts
    | st.sampled_from(
        [
            "10.0.0.0/255.255.255.0",
            "10.0.0.0/08",
            "010.0.0.0/8",
            "10.0.0/24",
            "10.0.0.0/",
            "/8",
            "10.0.0.0/²",
            "1.2.3.4.5/8",
        ]
    )
)
def test_any_network_as_numbers_and_as_text(text: str) -> None:
    network = strict(text)
    if network is None:
        with pytest.raises(ValueError, match=r"\S"):
            number_range(text)
        with pytest.raises(ConfigError):
            values.network_text(text, "x")
        return
    assert number_range(text) == (int(network.network_address), int(network.broadcast_address))
    assert values.network_text(text, "x") == str(network)
