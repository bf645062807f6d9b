# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import reduce
from math import gcd
from typing import Any

import pytest
from _natlb.errors import ConfigError
from _natlb.model import slots
from _natlb.model.entities import Backend, Service
from _natlb.model.services import parse_config
from hypothesis import given
from hypothesis import strategies as st


def service(
    backends: int = 4, method: str = "source_hash", backups: str = "together", **changes: dict[str, Any]
) -> Service:
    """A service with backends 10.0.0.1, .2 …; `b3={…}` changes the third."""
    declared = [{"address": f"10.0.{i >> 8}.{i & 255}", "port": 80} for i in range(1, backends + 1)]
    for name, change in changes.items():
        declared[int(name[1:]) - 1].update(change)
    listed = [{"name": "web", "listen": "192.0.2.10:80", "method": method, "backups": backups, "backends": declared}]
    return parse_config(listed).services[0]


def addresses(declared: Service) -> list[str]:
    return [backend.address for backend in slots.slots(declared, "ip")]


@pytest.mark.parametrize(
    ("weights", "ring"),
    [
        ([], ""),
        ([7], "A"),
        ([1, 1, 1], "ABC"),
        ([4, 4], "AB"),
        ([3, 2, 1], "ABACAB"),
        ([1, 2, 3], "CBCACB"),
        ([5, 3, 2], "ABACABABAC"),
        ([2, 1], "ABA"),
    ],
)
def test_interleave(weights: list[int], ring: str) -> None:
    assert "".join("ABC"[index] for index in slots.interleave(weights)) == ring


@given(st.lists(st.integers(1, 256), min_size=1, max_size=12))
def test_every_turn_of_the_ring_is_exact(weights: list[int]) -> None:
    ring = slots.interleave(weights)
    divisor = reduce(gcd, weights)
    assert Counter(ring) == {index: weight // divisor for index, weight in enumerate(weights)}


@given(st.lists(st.integers(1, 256), min_size=1, max_size=12))
def test_the_heaviest_is_evenly_spread(weights: list[int]) -> None:
    """The gaps between two turns of the heaviest differ by one at the most, also across the ring's end."""
    ring = slots.interleave(weights)
    heaviest = weights.index(max(weights))
    places = [place for place, index in enumerate(ring) if index == heaviest]
    gaps = {(after - before) % len(ring) for before, after in zip(places, [*places[1:], places[0]], strict=True)}
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("backends", [3, 10, 50])
def test_draining_moves_nobody_else(backends: int) -> None:
    before = addresses(service(backends))
    for number in (1, backends // 2 + 1, backends):
        gone = f"10.0.0.{number}"
        for change in ({"state": "drained"}, {"state": "disabled"}):
            after = addresses(service(backends, **{f"b{number}": change}))
            assert gone not in after
            assert all(new == old for old, new in zip(before, after, strict=True) if old != gone)
            shares = Counter(after)
            assert max(shares.values()) / min(shares.values()) < 1.02


@pytest.mark.parametrize("backends", [10, 9, 12, 16])
def test_removing_moves_few_others(backends: int) -> None:
    """A backend that leaves the declaration, whichever it is: at most 2.5 % of the others' clients move."""
    full = service(backends)
    before = addresses(full)
    for gone in range(backends):
        listed = [{"address": b.address, "port": 80} for i, b in enumerate(full.backends) if i != gone]
        less = parse_config([{"name": "web", "listen": "192.0.2.10:80", "method": "source_hash", "backends": listed}])
        after = addresses(less.services[0])
        assert len(after) == len(before)
        others = [(old, new) for old, new in zip(before, after, strict=True) if old != full.backends[gone].address]
        moved = sum(old != new for old, new in others)
        assert moved / len(others) <= 0.025


def test_the_order_of_the_declaration_does_not_move_hashed_clients() -> None:
    declared = [{"address": f"10.0.0.{i}", "port": 80} for i in range(1, 6)]
    listed = {"name": "web", "listen": "192.0.2.10:80", "method": "flow_hash"}
    one, two = (parse_config([{**listed, "backends": b}]).services[0] for b in (declared, declared[::-1]))
    assert addresses(one) == addresses(two)


@pytest.mark.parametrize(
    ("change", "serving"),
    [
        ({}, {"10.0.0.1", "10.0.0.2"}),
        ({"b1": {"state": "drained"}}, {"10.0.0.2"}),
        ({"b1": {"weight": 0}}, {"10.0.0.2"}),
        ({"b1": {"state": "disabled"}, "b2": {"weight": 0}}, {"10.0.0.3"}),
        ({"b1": {"state": "drained"}, "b2": {"state": "drained"}, "b3": {"backup": True, "state": "drained"}}, set()),
    ],
)
@pytest.mark.parametrize("method", ["round_robin", "random", "source_hash", "flow_hash"])
def test_who_serves(method: str, change: dict[str, Any], serving: Any) -> None:
    assert set(addresses(service(3, method, **{"b3": {"backup": True}, **change}))) == serving


def shares(how: str, method: str, *out: int) -> Counter[str]:
    """Of four backends, the last two of which are backups, where these are out."""
    changes: dict[str, dict[str, Any]] = {"b3": {"backup": True}, "b4": {"backup": True}}
    for number in out:
        changes[f"b{number}"] = {**changes.get(f"b{number}", {}), "state": "disabled"}
    return Counter(address[-1] for address in addresses(service(4, method, how, **changes)))


@pytest.mark.parametrize(
    ("how", "out", "serving"),
    [
        ("together", (), "12"),
        ("together", (1,), "2"),
        ("together", (1, 2), "34"),
        ("one_for_one", (), "12"),
        ("one_for_one", (1,), "23"),
        ("one_for_one", (1, 3), "24"),
        ("one_for_one", (1, 2), "34"),
        ("one_for_one", (1, 2, 3), "4"),
        ("one_for_one", (1, 3, 4), "2"),
        ("one_for_one", (1, 2, 3, 4), ""),
        ("first", (), "12"),
        ("first", (1,), "2"),
        ("first", (1, 2), "3"),
        ("first", (1, 2, 3), "4"),
    ],
)
@pytest.mark.parametrize("method", ["round_robin", "random", "source_hash", "flow_hash"])
def test_which_backups_serve(how: str, method: str, out: tuple[int, ...], serving: str) -> None:
    found = shares(how, method, *out)
    assert "".join(sorted(found)) == serving
    assert len(set(found.values())) <= 1


def test_backends_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two thousand that would take seconds, each time that one of them goes down."""
    states = {f"b{number}": {"state": "drained"} for number in range(1, 31)}
    backups = {f"b{number}": {"backup": True} for number in range(31, 61)}
    web = service(60, backups="one_for_one", **states, **backups)

    def never(*both: object) -> bool:
        raise AssertionError(both)

    monkeypatch.setattr(Backend, "__eq__", never)
    assert len(web.serving("ip")) == 30


@pytest.mark.parametrize(("how", "serving"), [("together", "34"), ("one_for_one", "34"), ("first", "3")])
def test_backups_alone(how: str, serving: str) -> None:
    changes = {f"b{number}": {"backup": True} for number in (3, 4)}
    declared = service(4, "round_robin", how, **changes)
    alone = replace(declared, backends=declared.backends[2:])
    assert "".join(sorted(address[-1] for address in addresses(alone))) == serving


@pytest.mark.parametrize(
    ("how", "out", "serving"),
    [
        ("one_for_one", (), "12"),
        ("one_for_one", (1,), "245"),
        ("one_for_one", (1, 2), "3456"),
        # Of a spare that joins there is one less, so the next one joins as well.
        ("one_for_one", (1, 4), "2356"),
        ("one_for_one", (1, 4, 5), "236"),
        ("one_for_one", (1, 2, 4, 5), "36"),
        ("first", (1,), "2"),
        ("first", (1, 2), "45"),
        ("first", (1, 2, 4), "5"),
        ("first", (1, 2, 4, 5), "36"),
    ],
)
@pytest.mark.parametrize("method", ["round_robin", "source_hash"])
def test_backups_of_one_priority_are_one_spare(how: str, method: str, out: tuple[int, ...], serving: str) -> None:
    """Of six, the last four: two of priority 1 and two of priority 2."""
    changes: dict[str, dict[str, Any]] = {
        f"b{number}": {"backup": True, "priority": priority} for number, priority in ((3, 2), (4, 1), (5, 1), (6, 2))
    }
    for number in out:
        changes[f"b{number}"] = {**changes.get(f"b{number}", {}), "state": "disabled"}
    assert "".join(sorted({item[-1] for item in addresses(service(6, method, how, **changes))})) == serving


@pytest.mark.parametrize("method", ["source_hash", "flow_hash"])
def test_a_backup_that_joins_gets_the_clients_of_the_one_that_left_and_no_others(method: str) -> None:
    changes = {"b3": {"backup": True}, "b4": {"backup": True}}
    before = addresses(service(4, method, "one_for_one", **changes))
    after = addresses(service(4, method, "one_for_one", **changes, b1={"state": "drained"}))
    assert {(old[-1], new[-1]) for old, new in zip(before, after, strict=True)} == {("1", "3"), ("2", "2")}


def test_weights_that_need_too_many_slots() -> None:
    changes = {f"b{i}": {"weight": 255 + i % 2} for i in range(1, 301)}
    with pytest.raises(ConfigError, match="smaller weights"):
        slots.slots(service(300, "round_robin", **changes), "ip")
