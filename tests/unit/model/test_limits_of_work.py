# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""At the limits that docs allow, work goes with what is declared and not with its square.

Counted are operations: comparisons of backends, reads of a port. Seconds would say more of the machine.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from _natlb.errors import ConfigError, ConfigErrors
from _natlb.iptables import render as iptables
from _natlb.iptables.choice import hash_slots
from _natlb.model import hash_table, slots
from _natlb.model.conflicts import MOST_CONFLICTS, conflicts
from _natlb.model.entities import MAX_BACKENDS, MAX_SERVICES, MAX_WEIGHT, Backend, Frontend
from _natlb.model.overlaps import overlaps
from _natlb.model.services import parse_config
from _natlb.nftables import render as nftables

ADDRESSES = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(MAX_SERVICES)]


def service(weight: int = 1, **keys: Any) -> dict[str, Any]:
    backends = [{"address": address, "weight": weight} for address in ADDRESSES[:MAX_BACKENDS]]
    return {"name": "web", "listen": "192.0.2.1:80", "backends": backends, **keys}


class Number(int):
    """A number that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Number.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


@pytest.mark.parametrize("engine", [nftables, iptables], ids=["nftables", "iptables"])
def test_backends_are_not_looked_for_one_by_one(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    compared = Counter[str]()
    original = Backend.__eq__

    def equal(self: Backend, other: object) -> bool:
        compared["backends"] += 1
        return bool(original(self, other))

    monkeypatch.setattr(Backend, "__eq__", equal)
    config = parse_config([service(method="source_hash")])
    engine.render(config)
    assert compared["backends"] <= 4 * MAX_BACKENDS


def test_slots_of_a_hash_are_not_looked_for_one_by_one() -> None:
    count = 512
    everyone = [Number(index) for index in range(count)]
    Number.compared = 0
    table = hash_slots(ADDRESSES[:count], [1] * count, everyone, everyone)
    print(f"{len(table)} slots, {Number.compared} comparisons")
    assert Number.compared <= 8 * len(table)


@pytest.mark.parametrize("count", [512, MAX_BACKENDS])
def test_blocks_of_a_hash_are_not_asked_for_one_by_one(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each backend asks for a few blocks, not for all of them."""
    blocks = hash_table._Order.blocks
    asked = 0

    def counted(*arguments: Any) -> list[int]:
        nonlocal asked
        wishes = blocks(*arguments)
        asked += len(wishes)
        return wishes

    monkeypatch.setattr(hash_table._Order, "blocks", counted)
    everyone = range(count)
    table = hash_table.deal(ADDRESSES[:count], [1] * count, everyone, everyone)
    print(f"{len(table)} slots, {asked} questions")
    assert asked <= 2 * len(table)


def test_a_ring_that_is_too_large_is_never_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(_weights: object) -> list[int]:
        raise AssertionError("it was built")

    monkeypatch.setattr(slots, "interleave", built)
    config = parse_config([service(weight=MAX_WEIGHT)])
    config = parse_config(
        [service(backends=[{**item, "weight": 255 + i % 2} for i, item in enumerate(dumped(config))])]
    )
    with pytest.raises(ConfigError, match=r"its weights need 1046528 slots"):
        nftables.render(config)


def dumped(config: Any) -> list[dict[str, Any]]:
    return [{"address": backend.address} for backend in config.services[0].backends]


def test_a_ring_of_as_many_backends_as_there_may_be() -> None:
    chance = random.Random(1)
    weights = [chance.randint(1, 30) for _unused in range(MAX_BACKENDS)]
    assert Counter(slots.interleave(weights)) == dict(enumerate(weights))


class Watched:
    """A frontend that counts how often a port of it is read."""

    reads = 0
    family, protocol, spans = "ip", "tcp", True

    def __init__(self, address: str | None, low: int, high: int, interface: str | None = None) -> None:
        self.address, self.interface = address, interface
        self._low, self._high = low, high

    @property
    def low(self) -> int:
        Watched.reads += 1
        return self._low

    @property
    def high(self) -> int:
        Watched.reads += 1
        return self._high


HALF = MAX_SERVICES // 2
CLAIMS: dict[str, list[Watched]] = {
    "addresses": [Watched(address, 80, 80) for address in ADDRESSES],
    "ports": [Watched("192.0.2.1", port, port) for port in range(1, 65536)],
    "* and addresses": [
        *(Watched(None, port, port) for port in range(1, HALF)),
        *(Watched(address, HALF, HALF) for address in ADDRESSES[:HALF]),
    ],
    "a range on another interface": [
        Watched(None, 1, 65535, "eth1"),
        *(Watched("192.0.2.1", port, port, "eth0") for port in range(1, 65536)),
    ],
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_frontends_are_not_compared_with_all_others(kind: str) -> None:
    claims: Any = [(frontend, index) for index, frontend in enumerate(CLAIMS[kind])]
    Watched.reads = 0
    assert not list(overlaps(claims))
    assert not list(conflicts(claims))
    print(f"{len(claims)} frontends, {Watched.reads} reads of a port")
    assert Watched.reads <= 32 * len(claims)


def test_overlaps_are_those_of_every_pair() -> None:
    chance = random.Random(3)
    for _round in range(60):
        claims = []
        for index in range(30):
            low = chance.randint(1, 60)
            address, interface = chance.choice([None, "192.0.2.1", "192.0.2.2"]), chance.choice([None, "eth0", "eth1"])
            claims.append((Frontend("ip", "tcp", address, low, low + chance.choice([0, 0, 3, 20]), interface), index))
        wanted = Counter(
            frozenset((one[1], two[1]))
            for number, one in enumerate(claims)
            for two in claims[:number]
            if one[0].low <= two[0].high
            and two[0].low <= one[0].high
            and (None in (one[0].address, two[0].address) or one[0].address == two[0].address)
            and (None in (one[0].interface, two[0].interface) or one[0].interface == two[0].interface)
        )
        found = list(overlaps(claims))
        assert Counter(frozenset((one[1], two[1])) for one, two in found) == wanted
        assert all((a[0].low, a[0].high, a[1]) <= (b[0].low, b[0].high, b[1]) for a, b in found)


def test_of_too_many_overlaps_some_are_told() -> None:
    many = [{"name": f"s{i}", "listen": "192.0.2.1:80", "backends": []} for i in range(2000)]
    with pytest.raises(ConfigErrors) as caught:
        parse_config(many)
    assert len(caught.value.errors) == MOST_CONFLICTS
