# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks in `listen`: how they are written and kept, what is left of them, and which pairs overlap."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from _natlb.iptables import render as iptables
from _natlb.model.entities import Config, dump
from _natlb.model.nested_networks import left_of_networks
from _natlb.model.overlaps import overlaps
from _natlb.model.ranges import number_range, without
from _natlb.model.services import parse_config
from _natlb.model.territory import territory
from _natlb.nftables import render as nftables
from _natlb.ruleset.sections import Ruleset
from listening import NETWORKS, frontend

SIX = "2001:db8:2::3"


def declared(*frontends: tuple[str, str | None]) -> Config:
    """A service for each of these, named by its place, with a backend of its own."""
    return parse_config(
        [
            {
                "name": f"s{number}",
                "listen": [listen],
                "backends": [f"172.{16 + (number >> 14)}.{number >> 7 & 127}.{number & 127}:8080"],
                **({"interface": interface} if interface else {}),
            }
            for number, (listen, interface) in enumerate(frontends)
        ]
    )


def body(ruleset: Ruleset, name: str) -> list[str]:
    (section,) = [section for key, section in ruleset.items() if key.name == name]
    return list(section.body)


@pytest.mark.parametrize(
    ("given", "written", "backend"),
    [
        ("198.51.100.0/24:443", "198.51.100.0/24:443", "10.0.0.3"),
        ("0.0.0.0/0:443-444", "0.0.0.0/0:443-444", "10.0.0.3"),
        ("198.51.100.7/32:443", "198.51.100.7:443", "10.0.0.3"),
        ("[2001:db8:1::/64]:443", "[2001:db8:1::/64]:443", SIX),
        ("[2001:db8:1::]/64:443", "[2001:db8:1::/64]:443", SIX),
        ("[2001:DB8:1:0::]/64:443", "[2001:db8:1::/64]:443", SIX),
        ("[::]/0:443", "[::/0]:443", SIX),
        ("[2001:db8:1::7/128]:443", "[2001:db8:1::7]:443", SIX),
    ],
)
def test_one_spelling(given: str, written: str, backend: str) -> None:
    config = parse_config([{"name": "web", "listen": given, "backends": [backend]}])
    kept: dict[str, Any] = dump(config)["services"][0]
    assert kept["listen"] == [written]
    assert parse_config([{"name": "web", "listen": written, "backends": [backend]}]) == config


@pytest.mark.parametrize(
    ("ports", "taken", "left"),
    [
        ((1, 9), [], ((1, 9),)),
        ((1, 9), [(3, 4)], ((1, 2), (5, 9))),
        ((1, 9), [(0, 3), (4, 4), (9, 12)], ((5, 8),)),
        ((1, 9), [(0, 12)], ()),
        ((1, 9), [(10, 12)], ((1, 9),)),
        ((5, 5), [(1, 4), (6, 9)], ((5, 5),)),
    ],
)
def test_what_ports_are_left(ports: Any, taken: Any, left: Any) -> None:
    assert without(ports, taken) == left


def test_rules_of_networks() -> None:
    config = declared(("0.0.0.0/0:80-90", None), ("128.0.0.0/1:85", None), ("192.0.2.0/24:80", "eth0"))
    found = nftables.render(config)
    assert body(found, "network") == [
        "0.0.0.0/1 . 6 . 80-90 : goto s.s0.tcp",
        "128.0.0.0/1 . 6 . 80-84 : goto s.s0.tcp",
        "128.0.0.0/1 . 6 . 85 : goto s.s1.tcp",
        "128.0.0.0/1 . 6 . 86-90 : goto s.s0.tcp",
    ]
    assert body(found, "network_interface") == ['"eth0" . 192.0.2.0/24 . 6 . 80 : goto s.s2.tcp']
    assert [rule.partition(" ")[0] for rule in body(found, "prerouting")] == ["fib", "fib"]
    assert "fib daddr type local" in body(found, "output")[0]
    assert len(body(found, "output")) == 1
    jumps = body(iptables.render(config), "NATLB.pre")
    assert [jump.rpartition(" ")[2] for jump in jumps] == ["NATLB..dni.tcp"] * 2 + ["NATLB..dn.tcp"] * 2


def test_overlaps_are_those_of_every_pair() -> None:
    chance = random.Random(8)
    for _round in range(100):
        claims = []
        for number in range(12):
            low = chance.randint(1, 12)
            where = chance.choice(["*", "192.0.2.10", "192.0.2.11", *NETWORKS])
            item = frontend(f"{where}:{low}-{low + chance.choice([0, 2])}", chance.choice([None, "eth0", "eth1"]))
            claims.append((item, number))
        found = [frozenset((one[1], two[1])) for one, two in overlaps(claims)]
        wanted = {
            frozenset((one[1], two[1]))
            for one in claims
            for two in claims
            if one[1] < two[1]
            and one[0].low <= two[0].high
            and two[0].low <= one[0].high
            and None in (one[0].interface, two[0].interface, None if one[0].interface == two[0].interface else "")
            and _meet(one[0].address, two[0].address)
        }
        assert set(found) == wanted
        assert len(found) == len(wanted)


def _meet(one: str | None, two: str | None) -> bool:
    if one is None or two is None:
        return True
    (low, high), (first, last) = number_range(one), number_range(two)
    return low <= last and first <= high


def test_ten_thousand_networks() -> None:
    inner = [(f"10.{n >> 8}.{n & 255}.0/24:80", None) for n in range(10000)]
    config = declared(("0.0.0.0/0:1-65535", None), ("10.0.0.0/8:80", None), *inner)
    began = time.process_time()
    whole = territory(config.services)
    spent = time.process_time() - began
    print(f"{len(inner)} networks: {spent:.3f} s, {len(whole.of(config.services[0]))} parts of the widest")
    assert spent < 4
    assert len(whole.of(config.services[0])) < 100


def test_a_network_that_is_given_twice_takes_nothing_from_itself() -> None:
    one = frontend("198.51.100.0/24:80")
    assert left_of_networks([one, one]) == {}
