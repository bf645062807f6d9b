# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from _natlb.model import hash_table
from hypothesis import given, settings
from hypothesis import strategies as st

#: What may move beside what has to, in points of a hundred of all clients.
MOST_EXTRA = 2.5
#: Where a weight grows tenfold at once.
MOST_EXTRA_TENFOLD = 5
#: A share is slots of a backend / slots of the table, over weight / sum of the weights.
MOST_UNEVEN = 0.02

Pool = dict[str, int]


def pool(count: int, subnet: int = 0, weight: int = 1) -> Pool:
    """Backends by key, with their weights."""
    return {f"10.{subnet}.{i >> 8}.{i & 255} 8080": weight for i in range(count)}


def table(backends: Pool, away: Sequence[str] = ()) -> list[str]:
    """The key that each slot belongs to while some are away."""
    keys = sorted(backends)
    serving = [index for index, key in enumerate(keys) if key not in away]
    dealt = hash_table.deal(keys, [backends[key] for key in keys], range(len(keys)), serving)
    return [keys[index] for index in dealt]


def moved(before: Sequence[str], after: Sequence[str]) -> float:
    """The share of all clients that has another backend. Slots are ranges of the hash, cut in two in a larger table."""
    size = max(len(before), len(after))
    one, two = size // len(before), size // len(after)
    return sum(before[place // one] != after[place // two] for place in range(size)) / size


def extra(before: Pool, after: Pool, tables: tuple[list[str], list[str]] | None = None) -> float:
    """Points that move beyond what one backend has more or less of all clients."""
    one, two = tables or (table(before), table(after))
    needed = sum(
        abs(before.get(key, 0) / sum(before.values()) - after.get(key, 0) / sum(after.values()))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    )
    return 100 * (moved(one, two) - needed)


@pytest.mark.parametrize("numbers", [range(1, 41), [63, 64, 65, 66, 127, 128, 129, 256, 257, 499, 500]])
def test_one_more_moves_hardly_more_than_it_takes(numbers: Sequence[int]) -> None:
    """Around every number at which tables had or have another size."""
    found = {count: extra(pool(count - 1), pool(count)) for count in numbers if count > 1}
    print({count: f"{points:.2f}" for count, points in found.items()})
    assert max(found.values()) <= MOST_EXTRA


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 17, 33, 65, 129, 500])
def test_removing_and_reweighting_move_hardly_more_than_they_take(count: int) -> None:
    plain = pool(count, subnet=1)
    before = table(plain)
    for key in [*plain][:: max(1, count // 3)]:
        for weight in (0, 2, 10):
            changed = {k: weight if k == key else 1 for k in plain if k != key or weight}
            points = extra(plain, changed, (before, table(changed)))
            print(f"{count} backends, {key}: weight 1 -> {weight}: {points:.2f} points")
            assert points <= (MOST_EXTRA if weight <= 2 else MOST_EXTRA_TENFOLD)


def test_a_larger_table_is_the_smaller_one_cut_finer() -> None:
    """The 33rd of equal backends doubles the table, and so does one that is lighter than the others."""
    one, two = pool(32), pool(33)
    assert len(table(two)) == 2 * len(table(one))
    assert extra(one, two) <= MOST_EXTRA
    heavy, light = pool(32, weight=2), {**pool(32, weight=2), "10.0.0.0 8080": 1}
    assert len(table(light)) == 2 * len(table(heavy))
    assert extra(heavy, light) <= MOST_EXTRA


def weights() -> Iterator[Pool]:
    for count in [*range(1, 70), 100, 128, 200, 256, 333, 500]:
        yield pool(count)
    yield {"a": 256, "b": 1}
    yield {"a": 5, "b": 3, "c": 2}
    yield {key: 1 + index % 20 for index, key in enumerate(pool(40))}


def test_shares_are_within_two_percent() -> None:
    for backends in weights():
        dealt = Counter(table(backends))
        for key, weight in backends.items():
            share = dealt[key] / dealt.total() * sum(backends.values()) / weight
            assert abs(share - 1) <= MOST_UNEVEN, (len(backends), key, share)


@pytest.mark.parametrize("count", [2, 3, 4, 10, 33, 200])
def test_who_is_away_moves_its_own_clients_only(count: int) -> None:
    """They go to the others by weight, and come back."""
    backends = {key: 1 + index % 3 for index, key in enumerate(pool(count))}
    before = table(backends)
    away = [*backends][: max(1, count // 4)]
    after = table(backends, away)
    assert not set(after) & set(away)
    assert all(new == old for old, new in zip(before, after, strict=True) if old not in away)
    left = {key: weight for key, weight in backends.items() if key not in away}
    dealt = Counter(after)
    for key, weight in left.items():
        assert abs(dealt[key] / len(after) * sum(left.values()) / weight - 1) <= MOST_UNEVEN


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 32), min_size=1, max_size=12), st.data())
def test_every_slot_belongs_to_somebody_who_serves(weights: list[int], data: st.DataObject) -> None:
    indices = st.sets(st.integers(0, len(weights) - 1), min_size=1)
    dealt, serving = sorted(data.draw(indices)), sorted(data.draw(indices))
    slots = hash_table.deal([f"b{i}" for i in range(len(weights))], weights, dealt, serving)
    assert set(slots) <= set(serving)
    assert len(slots) == hash_table.table_size(weights)
    counts = Counter(slots)
    if dealt == serving:
        for index in serving:
            exact = len(slots) * weights[index] / sum(weights[i] for i in serving)
            assert abs(counts[index] - exact) < 1


def test_tables_are_the_same_everywhere() -> None:
    """On every balancer, with every version: another digest here moves the clients of everybody who updates."""
    slots = "\n".join([*table(pool(5)), *table({key: 1 + i % 7 for i, key in enumerate(pool(70))})])
    assert hashlib.sha256(slots.encode()).hexdigest()[:16] == "08c569b4f8d7fa7e"
