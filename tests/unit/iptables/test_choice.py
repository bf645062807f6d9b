# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from collections import Counter

import pytest
from _natlb.iptables.choice import Chains, Target, by_chance, by_hash, by_turn, hash_slots
from _natlb.model.slots import interleave
from hypothesis import given, settings
from hypothesis import strategies as st


def targets(count: int) -> list[Target]:
    return [Target("", f"-j B{i}") for i in range(count)]


class Counters:
    """`statistic --mode nth` as net/netfilter/xt_statistic.c has it: each rule counts what comes to it."""

    def __init__(self, chains: Chains) -> None:
        self.chains = chains
        self.seen: Counter[tuple[str, int]] = Counter()

    def send(self, chain: str) -> str:
        for number, rule in enumerate(self.chains[chain]):
            every = re.search(r"--every (\d+)", rule)
            self.seen[chain, number] += 1
            if every and (self.seen[chain, number] - 1) % int(every.group(1)):
                continue
            target = rule.split()[-1]
            return self.send(target) if target in self.chains else target
        raise AssertionError(f"{chain} let a packet through")


@pytest.mark.parametrize(
    "weights", [[1], [7], [1, 1, 1], [5, 3, 2], [1] * 18, [1] * 36, [20, 1], [256, 255], [13, 6]], ids=str
)
def test_turns_are_exact(weights: list[int]) -> None:
    ring = interleave(weights)
    chosen = [targets(len(weights))[index] for index in ring]
    kernel = Counters(by_turn("NATLB.web.tcp", chosen))
    sent = [kernel.send("NATLB.web.tcp") for _turn in range(3 * len(ring))]
    assert sent == [target.action[3:] for target in chosen] * 3


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_turns_are_exact(weights: list[int]) -> None:
    chosen = [targets(len(weights))[index] for index in interleave(weights)]
    kernel = Counters(by_turn("NATLB.web.tcp", chosen))
    assert [kernel.send("NATLB.web.tcp") for _unused in chosen * 2] == [target.action[3:] for target in chosen * 2]


def test_a_rule_per_turn_with_what_is_left() -> None:
    assert by_turn(
        "NATLB.web.tcp", [Target("-p tcp", f"-j DNAT --to-destination 10.0.0.{i}:80") for i in (3, 4, 5)]
    ) == {
        "NATLB.web.tcp": [
            "-p tcp -m statistic --mode nth --every 3 --packet 0 -j DNAT --to-destination 10.0.0.3:80",
            "-p tcp -m statistic --mode nth --every 2 --packet 0 -j DNAT --to-destination 10.0.0.4:80",
            "-p tcp -j DNAT --to-destination 10.0.0.5:80",
        ]
    }


def chances(chains: Chains, chain: str) -> dict[str, float]:
    """The chance of each target, rule by rule."""
    left, found = 1.0, Counter[str]()
    for rule in chains[chain]:
        probability = re.search(r"--probability ([0-9.]+)", rule)
        here = left * (float(probability.group(1)) if probability else 1.0)
        left -= here
        target = rule.split()[-1]
        inner = chances(chains, target) if target in chains else {target: 1.0}
        for name, share in inner.items():
            found[name] += here * share
    assert left == 0
    return found


@given(st.lists(st.integers(1, 256), min_size=1, max_size=300))
@settings(max_examples=60, deadline=None)
def test_chances_are_as_the_weights(weights: list[int]) -> None:
    found = chances(by_chance("NATLB.web.tcp", list(zip(targets(len(weights)), weights, strict=True))), "NATLB.web.tcp")
    for index, weight in enumerate(weights):
        assert found[f"B{index}"] == pytest.approx(weight / sum(weights), rel=1e-6)


def shares(weights: list[int], staying: list[int] | None = None) -> list[int]:
    keys = [f"10.0.0.{i} 80" for i in range(len(weights))]
    everyone = list(range(len(weights)))
    return hash_slots(keys, weights, everyone, everyone if staying is None else staying)


@pytest.mark.parametrize(
    "weights", [[1], [1, 1, 1], [5, 3, 2], [1] * 10, [1] * 40, [256, 1], list(range(1, 30))], ids=str
)
def test_hash_slots_are_as_the_weights(weights: list[int]) -> None:
    table = shares(weights)
    counted = Counter(table)
    for index, weight in enumerate(weights):
        assert abs(counted[index] - len(table) * weight / sum(weights)) <= 1


@pytest.mark.parametrize("count", [2, 3, 4, 10, 17])
def test_a_backend_on_leave_moves_nobody_else(count: int) -> None:
    full = shares([1] * count)
    for gone in range(count):
        table = shares([1] * count, [index for index in range(count) if index != gone])
        assert all(was in (now, gone) for was, now in zip(full, table, strict=True))
        got = Counter(now for was, now in zip(full, table, strict=True) if was == gone)
        assert max(got.values()) - min(got[index] for index in range(count) if index != gone) <= 1


def needless(before: list[int], after: list[int], changed: int) -> float:
    """Clients that move between others than the changed one, in points of a hundred. A larger table is one in which
    each slot has become four or sixteen."""
    size = max(len(before), len(after))
    one, two = size // len(before), size // len(after)
    pairs = [(before[place // one], after[place // two]) for place in range(size)]
    return 100 * sum(was != now and changed not in (was, now) for was, now in pairs) / size


@pytest.mark.parametrize("count", [9, 10])
def test_a_backend_that_goes_moves_few_others(count: int) -> None:
    """On average over all of them."""
    keys, full = [f"10.0.0.{i} 80" for i in range(count)], shares([1] * count)
    points = []
    for gone in range(count):
        left = [index for index in range(count) if index != gone]
        after = hash_slots([keys[index] for index in left], [1] * len(left), range(len(left)), range(len(left)))
        points.append(needless(full, [left[index] for index in after], gone))
    print(f"{count} backends: {sum(points) / count:.1f} points on average, {max(points):.1f} at most")
    assert sum(points) / count <= 7
    assert max(points) <= 12


def test_no_number_of_backends_moves_many_others() -> None:
    """The 11th, 43rd and 171st made the table four times as large, and moved nearly all."""
    tables = {count: shares([1] * count) for count in [*range(1, 66), 170, 171]}
    found = {count: needless(tables[count - 1], tables[count], count - 1) for count in tables if count - 1 in tables}
    print({count: f"{points:.1f}" for count, points in found.items()})
    assert max(found.values()) <= 10
    assert len(tables[65]) > len(tables[17]) > len(tables[10])


def test_backups_get_all_slots_only_when_they_stay() -> None:
    keys = ["a", "b", "c"]
    assert set(hash_slots(keys, [1, 1, 1], [0, 1], [0, 1])) == {0, 1}
    assert set(hash_slots(keys, [1, 1, 1], [0, 1], [2])) == {2}
    assert set(hash_slots(keys, [1, 1, 1], [], [0, 1, 2])) == {0, 1, 2}


def test_a_hash_tree_has_every_slot_in_its_place() -> None:
    table = shares([5, 3, 2])
    chains = by_hash("NATLB.web.tcp", [targets(3)[index] for index in table], 7, lambda seed, mask: f"{seed} {mask}")
    assert sum(map(len, chains.values())) < 120
    seeds = []
    for slot, index in enumerate(table):
        chain, size, at = "NATLB.web.tcp", len(table), slot
        seeds = []
        while chain in chains:
            size //= 4
            node, at = divmod(at, size)
            for rule in chains[chain]:
                words = rule.split()
                if len(words) == 2 or int(words[1]) >> node & 1:
                    seeds += words[:1] if len(words) == 4 else []
                    chain = words[-1]
                    break
        assert chain == f"B{index}"
    assert len(set(seeds)) == len(seeds), "each level asks a hash of its own"
