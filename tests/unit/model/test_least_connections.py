# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How new connections are dealt so that active ones level out: bounds, the level, and what leaves slots alone."""

from __future__ import annotations

import itertools

import pytest
from _natlb.model import local_state
from _natlb.model.effective import Place
from _natlb.model.entities import Config
from _natlb.model.least_connections import LEAST, MOST, levelled, multiples, of_known, with_hysteresis
from _natlb.model.services import parse_config
from _natlb.model.slots import dealt_slots
from hypothesis import given
from hypothesis import strategies as st

BACKENDS = [{"address": f"10.0.0.{number}"} for number in (3, 4, 5, 6)]
PLACES = [Place("web", str(item["address"]), None) for item in BACKENDS]


def config(method: str = "least_connections", **keys: object) -> Config:
    declared = {"name": "web", "listen": "192.0.2.1:80", "method": method, "backends": BACKENDS, **keys}
    return parse_config([declared])


loads = st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 256)), min_size=2, max_size=12)


@given(loads, st.floats(1, 1e5))
def test_shares_add_up_within_their_bounds(found: list[tuple[int, int]], arrivals: float) -> None:
    active, weights = zip(*found, strict=True)
    dealt = multiples(active, weights, arrivals)
    assert all(LEAST <= item <= MOST for item in dealt)
    total = sum(item * weight for item, weight in zip(dealt, weights, strict=True)) / sum(weights)
    assert total == pytest.approx(1, abs=0.02 * len(found) / min(arrivals, 50) + 0.01)


@given(loads, st.floats(1, 1e5))
def test_who_has_fewer_for_its_weight_gets_no_less_for_it(found: list[tuple[int, int]], arrivals: float) -> None:
    active, weights = zip(*found, strict=True)
    dealt = multiples(active, weights, arrivals)
    order = sorted(range(len(found)), key=lambda i: active[i] / weights[i])
    after = [(active[i] + arrivals * dealt[i] * weights[i] / sum(weights)) / weights[i] for i in order]
    # Nobody is lifted above another who started out above it.
    assert all(low <= high + 0.02 for low, high in itertools.pairwise(after))


@pytest.mark.parametrize(
    ("active", "weights", "arrivals", "expected"),
    [
        pytest.param([100, 100, 100, 100], [1, 1, 1, 1], 50, [1, 1, 1, 1], id="level"),
        pytest.param([133, 133, 133, 0], [1, 1, 1, 1], 100, [2 / 3, 2 / 3, 2 / 3, 2], id="empty"),
        pytest.param([300, 100], [3, 1], 50, [1, 1], id="level by weight"),
        pytest.param([10, 0], [1, 1], 20, [0.5, 1.5], id="nearly level"),
        pytest.param([1000, 0], [1, 1], 20, [LEAST, 2 - LEAST], id="two"),
        pytest.param([7], [3], 20, [1], id="one"),
        pytest.param([7, 3], [1, 1], 0, [1, 1], id="nobody comes"),
    ],
)
def test_levels(active: list[int], weights: list[int], arrivals: float, expected: list[float]) -> None:
    assert multiples(active, weights, arrivals) == pytest.approx(expected, abs=0.06)


def test_small_differences_leave_the_slots_alone() -> None:
    assert with_hysteresis([1.0, 1.0], [1.1, 0.9]) == [1.0, 1.0]
    assert with_hysteresis([1.5, 0.5], [1.42, 0.58]) == [1.5, 0.5]
    assert with_hysteresis([1.5, 0.5], [1.3, 0.7]) == [1.3, 0.7]
    assert with_hysteresis([1.2, 0.8], [1.02, 0.98]) == [1.0, 1.0], "whole turns, as soon as they do"


def test_slots_are_dealt_by_multiples() -> None:
    (service,) = levelled(config(), dict(zip(PLACES, (2.0, 0.5, 1.0, 0.5), strict=False))).services
    assert dealt_slots(service, "ip") == {"10.0.0.3": 4, "10.0.0.4": 1, "10.0.0.5": 2, "10.0.0.6": 1}


def test_others_are_left_alone() -> None:
    declared = config("round_robin")
    assert levelled(declared, {PLACES[0]: 2.0}) is declared
    declared = config()
    assert levelled(declared, {}) is declared
    assert levelled(declared, {Place("other", "10.0.0.3", None): 2.0}) is declared


def test_whoever_would_need_too_many_slots_takes_whole_turns() -> None:
    heavy = [{"address": f"10.0.{n // 250}.{n % 250 + 1}", "weight": 250 + n % 7} for n in range(200)]
    declared = config(backends=heavy)
    assert levelled(declared, {Place("web", "10.0.0.1", None): 1.95}) is declared


def test_the_file() -> None:
    found = dict(zip(PLACES, (2.0, 0.5), strict=False))
    text = local_state.dump_multiples(found, "me")
    assert local_state.parse_multiples(text, "me").entries == found
    assert local_state.parse_multiples(text.replace("2.0", "200"), "me").entries == {PLACES[1]: 0.5}
    assert not local_state.parse_multiples(text, "other").entries
    assert not local_state.parse_multiples("{", "me").entries


def test_what_is_no_longer_declared_is_forgotten() -> None:
    found = dict.fromkeys([*PLACES, Place("gone", "10.0.0.3", None)], 2.0)
    assert set(of_known(found, config().services)) == set(PLACES)
    assert not of_known(found, config("round_robin").services)
