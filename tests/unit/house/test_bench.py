# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arithmetic of the benchmarks: what they conclude from what they measured."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import benchmark

hash_quality, peers, peers_lab = map(benchmark, ("hash_quality", "peers", "peers_lab"))


def load(requests: int, machine_s: float, repeated: int = 0) -> Any:
    return peers_lab.Load(
        requests, seconds=2.0, p50_us=50, p99_us=90, errors=0, machine_s=machine_s, own_s=0.0, repeated=repeated
    )


def figures(requests: int, machine_s: float, repeated: int = 0) -> Any:
    return peers.Figures(load(requests, machine_s, repeated), load(100_000, 4.0), load(30_000, 1.0), gigabits=18.0)


RESULTS = {
    peers.DIRECT: [figures(40_000, 4.0), figures(20_000, 4.0)],
    peers.NATLB: [figures(40_000, 4.4, repeated=20), figures(20_000, 4.6)],
}


def test_a_contestant_costs_what_the_direct_way_did_not_cost_in_the_same_round() -> None:
    assert peers.extra_cost(RESULTS)[peers.NATLB].values == pytest.approx((10.0, 30.0))
    assert peers.DIRECT not in peers.extra_cost(RESULTS)


def test_rates_are_per_second_and_waiting_is_per_ten_thousand() -> None:
    first = RESULTS[peers.NATLB][0]
    assert peers.connections_per_s(first) == 20_000
    assert peers.repeated_share(first) == 5


def test_rounds_that_are_kept_come_first_and_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    path.write_text(json.dumps({name: [dataclasses.asdict(r) for r in rounds] for name, rounds in RESULTS.items()}))
    later = {name: [figures(1, 1.0)] for name in RESULTS}
    assert peers.together(peers.kept(path), later) == {name: [*RESULTS[name], figures(1, 1.0)] for name in RESULTS}
    assert peers.kept(tmp_path / "nothing.json") == {}


@pytest.mark.parametrize("name", ["nginx", "a (b) c", "x) y"])
def test_a_process_is_found_whatever_its_name(name: str) -> None:
    number, found, rest = peers_lab.parse_stat(f"42 ({name}) S 7 42 42")
    assert (number, found, rest.split()[:2]) == (42, name, ["S", "7"])


def test_moves_to_and_from_the_changed_backend_are_not_for_nothing() -> None:
    found = hash_quality.moved(["a", "a", "b", "c"], ["a", "c", "c", "b"], touched="a")
    assert (found.all, found.others) == (75, 50)


@pytest.mark.parametrize("count", [3, 10, 50])
def test_every_backend_gets_its_slots_of_a_published_table(count: int) -> None:
    backends = hash_quality.pool(count)
    counts = Counter(hash_quality.paper(backends).slots)
    assert set(counts) == {backend.key for backend in backends}
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_drain_of_ipvs_moves_nobody_else() -> None:
    backends, hashes = hash_quality.pool(10), hash_quality.clients(2000)
    drained = hash_quality.changed(backends, "one drained", 3)
    before, after = (hash_quality.ipvs_mh(some).where(hashes) for some in (backends, drained))
    found = hash_quality.moved(before, after, backends[3].key)
    assert found.others == 0 < found.all
    assert backends[3].key not in after
