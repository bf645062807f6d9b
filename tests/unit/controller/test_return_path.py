# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with the variables by which a backend tells several balancers apart."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.natlb.netfilter.plugins.plugin_utils import return_path

LB1 = {"mac": "02:00:5e:00:53:01", "gateway": "10.0.0.11"}
LB2 = {"mac": ["02:00:5e:00:53:02", "02:00:5E:00:53:A2"], "gateway": "10.0.0.12"}
BOTH = {"mac": "02:00:5e:00:53:03", "gateway": ["10.0.0.13", "2001:db8:2::13"]}
EXAMPLE = "(write one such as 02:00:5e:00:53:01)"


@pytest.mark.parametrize("balancers", [None, [], [LB1], [LB1, LB2], [BOTH]])
def test_what_is_right(balancers: Any) -> None:
    assert return_path.problems({"natlb_return_balancers": balancers, "natlb_return_mark_bit": "0"}) == []


@pytest.mark.parametrize(
    ("balancers", "problem"),
    [
        ("lb1", "natlb_return_balancers: is not a list (write one mapping with mac and gateway for each balancer)"),
        (["lb1"], "natlb_return_balancers[0]: is not a mapping (write mac and gateway)"),
        (
            [LB1, {"gateway": "10.0.0.12"}],
            "natlb_return_balancers[1].mac: is missing (write the link-layer address that its packets come from)",
        ),
        (
            [{**LB1, "mac": "10.0.0.11"}],
            f"natlb_return_balancers[0].mac: 10.0.0.11 is not the link-layer address of a host {EXAMPLE}",
        ),
        (
            [{**LB1, "mac": "01:00:5e:00:53:01"}],
            f"natlb_return_balancers[0].mac: 01:00:5e:00:53:01 is not the link-layer address of a host {EXAMPLE}",
        ),
        (
            [{"mac": LB1["mac"]}],
            "natlb_return_balancers[0].gateway: nothing is not one address (or one of each family)",
        ),
        (
            [{**LB1, "gateway": "lb1"}],
            "natlb_return_balancers[0].gateway: lb1 is not an address (write one such as 10.0.0.11)",
        ),
        (
            [{**LB1, "gateway": ["10.0.0.11", "10.0.0.12"]}],
            "natlb_return_balancers[0].gateway: 10.0.0.11, 10.0.0.12 is not one address (or one of each family)",
        ),
        (
            [LB1, {**LB2, "mac": LB1["mac"].upper()}],
            "natlb_return_balancers: 02:00:5e:00:53:01 is there 2 times (each packet comes from one balancer)",
        ),
    ],
)
def test_what_is_wrong(balancers: Any, problem: str) -> None:
    assert return_path.problems({"natlb_return_balancers": balancers}) == [problem]


def test_numbers_have_an_end() -> None:
    many = [
        {"mac": f"02:00:5e:00:{number >> 8:02x}:{number & 255:02x}", "gateway": "10.0.0.11"} for number in range(256)
    ]
    assert return_path.problems({"natlb_return_balancers": many[1:]}) == []
    assert return_path.problems({"natlb_return_balancers": many}) == [
        "natlb_return_balancers: 256 are too many (at most 255)"
    ]
    assert return_path.problems({"natlb_return_mark_bit": 25}) == [
        "natlb_return_mark_bit: 25 is not a number from 0 to 24"
    ]


def test_all_have_the_same_families() -> None:
    """What only one of them has would be left out without a word."""
    both, one = "IPv4 and IPv6", "(write addresses of the same families for all)"
    assert return_path.problems({"natlb_return_balancers": [LB1, BOTH, LB2]}) == [
        f"natlb_return_balancers[1].gateway: {both}, while natlb_return_balancers[0].gateway is IPv4 {one}"
    ]
    assert return_path.problems({"natlb_return_balancers": [BOTH, LB1]}) == [
        f"natlb_return_balancers[1].gateway: IPv4, while natlb_return_balancers[0].gateway is {both} {one}"
    ]
    given = {"natlb_return_balancers": [BOTH], "natlb_return_gateway": "10.0.0.1"}
    assert return_path.problems(given) == [
        f"natlb_return_balancers[0].gateway: {both}, while natlb_return_gateway is IPv4 {one}"
    ]
    given["natlb_return_gateway"] = ["10.0.0.1", "2001:db8:2::1"]
    assert return_path.problems(given) == []
    # Without balancers there is nothing to compare.
    assert return_path.problems({"natlb_return_gateway": "10.0.0.1"}) == []
