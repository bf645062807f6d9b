# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services with a hash: the rules are walked for every value of the hash."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest
from _natlb.model import slots
from _natlb.model.entities import Config, Service
from _natlb.model.services import parse_config
from _natlb.nftables import hashes
from _natlb.nftables import render as nftables
from _natlb.ruleset.sections import Ruleset

SEED = f"{hashes.SEED:#x}"


def backends(weights: Sequence[int], state: str = "active") -> list[dict[str, Any]]:
    """The first one has the state that is given."""
    return [
        {"address": f"10.0.{i >> 8}.{i & 255}", "port": 8080, "weight": weight, "state": "active" if i else state}
        for i, weight in enumerate(weights)
    ]


def config(*services: dict[str, Any]) -> Config:
    return parse_config(
        [
            {"name": f"s{i}", "listen": f"192.0.2.{i}:80", "method": "source_hash", "backends": backends([1] * 4)}
            | change
            for i, change in enumerate(services, 1)
        ]
    )


class Walk:
    """Where a new connection to a service ends; or, `again`, a segment that has met the wrong backend."""

    def __init__(self, ruleset: Ruleset, again: bool = False) -> None:
        self.again = again
        self.chains = {key[3]: section.body for key, section in ruleset.items() if key[2] == "chain"}
        self.maps = {
            key[3]: dict(line.split(" : ") for line in section.body)
            for key, section in ruleset.items()
            if key[2] == "map"
        }

    def backends(self, service: Service, size: int) -> list[str]:
        """The backend for each of `size` ranges of the hash."""
        (frontend,) = service.frontends()
        verdict = self.maps["service"][f"{frontend.address} . 6 . {frontend.low}"]
        return [self._end(verdict, f"{frontend.address} . {frontend.low}", slot, size) for slot in range(size)]

    def _end(self, verdict: str, where: str, slot: int, size: int) -> str:
        for rule in self.chains[verdict.removeprefix("goto ")]:
            picked = re.fullmatch(
                rf"jhash ip saddr(?: \. tcp sport)? mod (\d+) seed {SEED}(?: & (\d+))? vmap (?:@(\S+)|\{{ (.*) \}})",
                rule,
            )
            translated = re.fullmatch(
                r"dnat ip to ip daddr \. tcp dport \. numgen random mod 1(?: offset (\d+))? map @(\S+)", rule
            )
            if picked:
                number = slot * int(picked[1]) // size & int(picked[2] or -1)
                entries = self.maps[picked[3]] if picked[3] else dict(e.split(" : ") for e in picked[4].split(", "))
                if str(number) in entries:
                    return self._end(entries[str(number)], where, slot, size)
            elif translated:
                found = self.maps[translated[2]].get(f"{where} . {translated[1] or 0}")
                if found:
                    return found
            elif rule.startswith("goto ") or (self.again and "@takeover_again goto" in rule):
                return self._end(rule[rule.index("goto") :], where, slot, size)
        raise AssertionError(f"slot {slot}: no backend")


#: So many other tables that rows of up to two slots are elements, and rows of up to eight.
SHORT, LONG = 140, 600


def others(count: int) -> list[dict[str, Any]]:
    return [
        {
            "backends": [{"address": f"10.{9 + i // 250}.{i % 250}.{k}"} for k in range(1, 3)],
            "listen": f"198.18.{i // 250}.{i % 250}:80",
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("method", ["source_hash", "flow_hash"])
@pytest.mark.parametrize("state", ["active", "drained"])
@pytest.mark.parametrize(
    ("weights", "tables"),
    [
        *itertools.product(
            [[1], [1, 1], [3, 1], [1, 1, 1], [1] * 4, [4, 3, 2, 1], [1, 1, 100], [1] * 5, [1] * 16, [1] * 17, [1] * 40],
            [0, SHORT],
        ),
        *itertools.product([[3, 1], [4, 3, 2, 1], [1] * 16], [LONG]),
    ],
)
def test_the_rules_lead_where_the_slots_say(weights: list[int], tables: int, state: str, method: str) -> None:
    if len(weights) == 1 and state == "drained":
        state = "active"
    declared = config({"backends": backends(weights, state), "method": method}, *others(tables))
    service = declared.services[0]
    expected = [f"{backend.address} . {backend.port}" for backend in slots.slots(service, "ip")]
    ruleset = nftables.render(declared)
    assert Walk(ruleset).backends(service, len(expected)) == expected


@pytest.mark.parametrize("states", [(), (0,), (1, 3), (0, 1, 2)])
@pytest.mark.parametrize("weights", [[1] * 4, [4, 3, 2, 1], [1, 1, 1, 100], [1] * 17])
@pytest.mark.parametrize("more", [{}, {"log": True}])
def test_the_rules_lead_where_the_second_slots_say(weights: list[int], states: tuple[int, ...], more: Any) -> None:
    found = backends(weights)
    for index in states:
        found[index]["state"] = "drained"
    # The first one has the same backends and is not taken over, the last one has two of them drained.
    many = [{}, {"snat": "none", **more, "backends": found}, {"snat": "none", "listen": "198.18.1.1:81", **more}]
    declared = config({"backends": found}, many[1], {**many[2], "backends": [{**b, "port": 81} for b in found]})
    ruleset = nftables.render(declared)
    for service in declared.services[1:]:
        known, numbers = slots.hash_slots(service, "ip")
        second = slots.second_slots(service, "ip")
        for table, again in ((numbers, False), (second, True)):
            expected = [f"{known[index].address} . {known[index].port}" for index in table]
            assert Walk(ruleset, again).backends(service, len(expected)) == expected
    first = declared.services[0]
    assert Walk(ruleset, True).backends(first, 64) == Walk(ruleset).backends(first, 64)


def test_of_many_tables_there_are_no_second_slots() -> None:
    few, many = (nftables.render(config({"snat": "none"}, *others(count))) for count in (120, SHORT))
    assert any(key.name == "takeover_again" for key in few)
    assert not any("again" in key.name or "again" in str(section) for key, section in many.items())


def test_one_backend_has_no_second() -> None:
    found = nftables.render(config({"snat": "none", "backends": backends([1])}))
    assert not any("again" in key.name or "again" in str(section) for key, section in found.items())


@pytest.mark.parametrize("tables", [0, SHORT, LONG])
def test_a_packet_that_meets_the_slots_of_the_next_generation_finds_a_backend(tables: int) -> None:
    """Of its own generation it has the rules alone. Slot 0 is there as long as the service is."""
    declared = config({}, *others(tables))
    service = declared.services[0]
    walk = Walk(nftables.render(declared))
    before = set(walk.backends(service, 2048))
    assert len(before) == 4
    walk.maps["slot_tcp"] = {key: to for key, to in walk.maps["slot_tcp"].items() if key.endswith(" 0")}
    assert len(set(walk.backends(service, 2048)) & before) == 1
    for name in maps(nftables.render(declared)):
        walk.maps[name] = {}
    assert len(set(walk.backends(service, 2048)) & before) == 1


def maps(ruleset: Ruleset) -> list[str]:
    return sorted(key[3] for key in ruleset if key[2] == "map" and "_hash_" in key[3])


def elements(ruleset: Ruleset) -> int:
    return sum(len(section.body) for key, section in ruleset.items() if key[2] == "map")


def test_services_with_the_same_backends_share_a_table() -> None:
    one, many = nftables.render(config({})), nftables.render(config(*({} for _unused in range(100))))
    assert maps(one) == maps(many)
    assert len(maps(one)) == 1
    # An entry there, one on the way back, and one for each backend.
    assert elements(many) - elements(one) == 99 * 6
    other = {"backends": backends([1] * 3)}
    assert len(maps(nftables.render(config({}, other, other)))) == 2


@pytest.mark.parametrize(
    ("tables", "count", "most"),
    [
        *((SHORT, count, 1024) for count in (2, 3, 4, 16)),
        *((LONG, count, most) for count, most in ((2, 256), (3, 512), (4, 512), (16, 1024))),
    ],
)
def test_many_tables_of_few_backends_are_small(tables: int, count: int, most: int) -> None:
    """2,048 slots each."""
    ruleset = nftables.render(config({"backends": backends([1] * count), "method": "flow_hash"}, *others(tables)))
    (table,) = (section for key, section in ruleset.items() if key[2] == "map" and "flow_hash_" in key[3])
    assert len(table.body) <= most


def test_a_drain_changes_slots_and_no_names() -> None:
    drained = {"backends": backends([1] * 4, "drained")}
    assert maps(nftables.render(config({}, {}))) == maps(nftables.render(config(drained, drained)))


def test_the_table_of_most_services_keeps_its_name() -> None:
    drained = {"backends": backends([1] * 4, "drained")}
    (usual,) = maps(nftables.render(config({}, {}, {})))
    some = nftables.render(config({}, {}, drained))
    assert usual in maps(some)
    assert len(maps(some)) == 2
    verdicts = dict(line.split(" : ") for line in some["ip", "natlb", "map", "service"].body)
    assert verdicts["192.0.2.1 . 6 . 80"] == verdicts["192.0.2.2 . 6 . 80"] == f"goto {usual}"


def test_a_number_that_does_not_serve_leads_to_a_backend_that_does() -> None:
    """A packet may meet it that looked at the slots just before the drain."""
    ruleset = nftables.render(config({"backends": backends([1] * 4, "drained")}))
    slot = dict(line.split(" : ") for line in ruleset["ip", "natlb", "map", "slot_tcp"].body)
    assert len(slot) == 4
    assert "10.0.0.0 . 8080" not in slot.values()
