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
from _natlb.host import addresses
from _natlb.iptables import render as iptables
from _natlb.iptables.choice import hash_slots
from _natlb.model import hash_table, nested_networks, slots, territory
from _natlb.model.conflicts import MOST_CONFLICTS, conflicts
from _natlb.model.entities import MAX_BACKENDS, MAX_SERVICES, MAX_WEIGHT, Backend, Frontend
from _natlb.model.nested_networks import left_of_networks
from _natlb.model.overlaps import overlaps
from _natlb.model.services import parse_config
from _natlb.nftables import hashes
from _natlb.nftables import render as nftables
from _natlb.plan.stale_flows import Frontends
from _natlb.warnings import covered

ADDRESSES = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(MAX_SERVICES)]
NETWORKS = [f"10.{i >> 8}.{i & 255}.0/24" for i in range(MAX_SERVICES)]


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
    "* and networks": [
        *(Watched(None, port, port) for port in range(1, HALF)),
        *(Watched(network, HALF, HALF) for network in NETWORKS[:HALF]),
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


def test_a_wide_range_does_not_have_the_ports_within_it_read() -> None:
    """Each network overlaps with that range, and with none of the ports between the two."""
    many = 4000
    wild = [Watched(None, 1, 65535), *(Watched(None, port, port) for port in range(2, many))]
    claims: Any = [
        (item, index) for index, item in enumerate([*wild, *(Watched(n, many, many) for n in NETWORKS[:many])])
    ]
    Watched.reads = 0
    assert len(list(overlaps(claims))) == 2 * many - 2
    assert Watched.reads <= 32 * len(claims)


def on_network(network: str, low: int, high: int | None = None) -> Frontend:
    return Frontend("ip", "tcp", network, low, high or low, None)


ON_NETWORKS: dict[str, list[Frontend]] = {
    "ports": [on_network("0.0.0.0/0", port) for port in range(1, 4001)],
    "other ports of a network within": [
        on_network(network, port + first)
        for network, first in (("0.0.0.0/0", 0), ("10.0.0.0/8", 2000))
        for port in range(1, 2001)
    ],
    "the same ports of a network within": [
        on_network(network, port) for network in ("0.0.0.0/0", "10.0.0.0/8") for port in range(1, 2001)
    ],
    "ranges in ranges": [on_network("0.0.0.0/0", port, 65535 - port) for port in range(1, 4001)],
    "ranges in ranges, and networks": [
        *(on_network("0.0.0.0/0", port, 65535 - port) for port in range(1, 2001)),
        *(on_network(network, 32000) for network in NETWORKS[:2000]),
    ],
}


@pytest.mark.parametrize("kind", ON_NETWORKS)
def test_what_is_left_of_networks_is_not_asked_of_all_others(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    original = Frontend.__getattribute__

    def counted(self: Frontend, name: str) -> Any:
        nonlocal reads
        reads += 1
        return original(self, name)

    monkeypatch.setattr(Frontend, "__getattribute__", counted)
    left_of_networks(ON_NETWORKS[kind])
    print(f"{len(ON_NETWORKS[kind])} frontends, {reads} reads")
    assert reads <= 128 * len(ON_NETWORKS[kind])


def test_what_a_wider_network_takes_is_not_merged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    many, given = 1000, 0
    merged = nested_networks.merged

    def counted(ranges: list[Any]) -> Any:
        nonlocal given
        given += len(ranges)
        return merged(ranges)

    monkeypatch.setattr(nested_networks, "merged", counted)
    ports = [on_network("10.0.0.0/8", 2 * port) for port in range(1, many + 1)]
    within = [on_network(network, 2 * index + 2) for index, network in enumerate(NETWORKS[:many])]
    everything = on_network("0.0.0.0/0", 1, 65535)
    left = left_of_networks([everything, *ports, *within])
    assert given <= 4 * many
    assert len(left[everything]) == many + 3


def test_networks_around_an_address_are_not_looked_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    many, made = 500, 0
    number = addresses.number

    def counted(address: str) -> tuple[int, int]:
        nonlocal made
        made += 1
        return number(address)

    monkeypatch.setattr(addresses, "number", counted)
    keys = {"snat_ports": "20000-29999", "backends": ["10.9.9.9:80"]}
    parse_config(
        [
            {"name": f"s{i}", "listen": f"{network}:80", "snat": ADDRESSES[i], **keys}
            for i, network in enumerate(NETWORKS[:many])
        ]
    )
    print(f"{many} services, {made} addresses made numbers")
    assert made <= 16 * many


def test_what_is_left_to_frontends_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all, and once for the maps of nftables, which keep some of it apart."""
    told = Counter[Any]()
    original = territory.territory

    def counted(services: Any, place: Any) -> Any:
        told[place] += 1
        return original(services, place)

    monkeypatch.setattr(territory, "territory", counted)
    config = parse_config([service()])
    for _round in range(2):
        nftables.render(config)
        iptables.render(config)
        covered.warnings(config)
        for protocol in ("tcp", "udp"):
            Frontends(config, protocol, set())
    assert len(told) == 2
    assert set(told.values()) == {1}


def test_the_slots_of_a_table_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    original = hashes.most_frequent

    def most_frequent(numbers: Any) -> int:
        counted.append(len(numbers))
        return original(numbers)

    monkeypatch.setattr(hashes, "most_frequent", most_frequent)
    backends = [f"192.0.2.{number}:80" for number in (3, 4, 5)]
    keys = {"method": "source_hash", "backends": backends}
    nftables.render(parse_config([{"name": f"s{i}", "listen": f"{ADDRESSES[i]}:80", **keys} for i in range(50)]))
    assert len(counted) == 1


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
