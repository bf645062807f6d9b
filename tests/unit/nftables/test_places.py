# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where connections are led whose backend is full."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.nftables.render import render
from _natlb.ruleset.sections import Ruleset

METHODS = ("round_robin", "random", "source_hash", "flow_hash", "destination_hash", "least_connections")


def rules(*backends: dict[str, Any], **keys: Any) -> Ruleset:
    declared = [{"address": f"10.0.0.{number}", **backend} for number, backend in enumerate(backends, 3)]
    return render(parse_config([{"name": "web", "listen": "192.0.2.10:80", "backends": declared, **keys}]))


def chains(ruleset: Ruleset) -> dict[str, tuple[str, ...]]:
    return {key.name: section.body for key, section in ruleset.items() if key.kind == "chain"}


def sets(ruleset: Ruleset) -> list[str]:
    return sorted(key.name for key in ruleset if key.kind == "set" and key.name.startswith("places"))


def when_full(ruleset: Ruleset, chain: str = "s.web.tcp") -> Iterator[str]:
    """The chains that a connection comes to while it finds no room, behind the picks; the last one is where it ends."""
    walk = [rule for rule in chains(ruleset)[chain] if rule.startswith(("jump", "goto", "drop"))]
    yield from (rule.partition(" ")[2] or rule for rule in walk)


def test_nothing_changes_without_a_limit() -> None:
    assert rules({}, {}) == rules({"max_connections": 0}, {"max_connections": 0})
    assert sets(rules({}, {})) == []


@pytest.mark.parametrize("method", METHODS)
def test_everybody_is_tried_and_then_nobody(method: str) -> None:
    limited = rules(*[{"max_connections": 5}] * 4, {"max_connections": 1, "backup": True}, method=method)
    tried = list(when_full(limited))
    assert sorted(tried[:4]) == [f"room.web.tcp.10.0.0.{number}" for number in range(3, 7)]
    assert tried[4:] == ["room.web.tcp.10.0.0.7", "over_limit"]
    assert list(when_full(rules({"max_connections": 5}, when_empty="drop", method=method)))[-1] == "drop"


def test_who_has_no_limit_is_the_end_of_it() -> None:
    limited = rules({"max_connections": 5}, {}, {"backup": True, "max_connections": 1})
    assert list(when_full(limited)) == ["room.web.tcp.10.0.0.3", "b.web.tcp.10.0.0.4"]
    behind = rules({"max_connections": 5}, {"backup": True}, {"backup": True, "max_connections": 1})
    assert list(when_full(behind)) == ["room.web.tcp.10.0.0.3", "b.web.tcp.10.0.0.4"]


@pytest.mark.parametrize("method", METHODS)
def test_rules_grow_with_the_backends_and_no_chain_leads_back(method: str) -> None:
    count = {}
    for number in (10, 100):
        found = chains(rules(*[{"max_connections": 5, "weight": n % 7 + 1} for n in range(number)], method=method))
        count[number] = sum(map(len, found.values()))
        leads = {name: set(re.findall(r"(?:goto|jump) ([^\s,}]+)", " ".join(body))) for name, body in found.items()}
        for name in leads:
            reached, new = set(), {name}
            while new:
                new = set().union(*(leads[each] for each in new)) - reached
                reached |= new
            assert name not in reached
    assert count[100] < 11 * count[10]


@pytest.mark.parametrize("state", ["active", "drained", "disabled"])
def test_the_places_of_who_is_out_stay(state: str) -> None:
    found = rules({"max_connections": 5, "state": state}, {"max_connections": 7, "port": 8080, "state": state})
    assert sets(found) == ["places.web.10.0.0.3/5", "places.web.10.0.0.4.8080/7"]
    headers = [section.header for key, section in found.items() if key.name in sets(found)]
    assert [header[1:] for header in headers] == [("size 5", "flags dynamic"), ("size 7", "flags dynamic")]


def test_rules_of_a_place_do_not_depend_on_weights_and_states() -> None:
    before = rules({"max_connections": 5}, {"max_connections": 5}, {"max_connections": 5})
    after = rules(
        {"max_connections": 5, "weight": 9}, {"max_connections": 5}, {"max_connections": 5, "state": "drained"}
    )
    for key, section in before.items():
        if key.name.startswith(("room", "b.", "places")) and not key.name.endswith("10.0.0.5"):
            assert after[key] == section


def test_a_hash_tries_the_same_ones_again() -> None:
    limited = [{"max_connections": 5}] * 3
    by_hash = [rule for rule in chains(rules(*limited, method="source_hash"))["s.web.tcp"] if " vmap " in rule]
    assert all(rule.startswith("jhash ip saddr mod ") for rule in by_hash)
    assert len({re.search(r"seed (\S+)", rule)[1] for rule in by_hash}) == len(by_hash) > 2  # type: ignore[index]
    others = [rule for rule in chains(rules(*limited))["s.web.tcp"] if " vmap " in rule]
    assert [rule.split(" vmap")[0] for rule in others] == ["numgen inc mod 3"] + ["numgen random mod 3"] * 4


def test_affinity_is_only_for_who_has_room() -> None:
    found = chains(rules({"max_connections": 5}, {}, affinity=60))
    assert found["s.web.tcp"][1:3] == (
        "ip saddr @affinity.web.10.0.0.3 jump room.web.tcp.10.0.0.3",
        "ip saddr @affinity.web.10.0.0.4 goto b.web.tcp.10.0.0.4",
    )
    key = "ip saddr . tcp sport . ip daddr . tcp dport . meta l4proto"
    (rule,) = found["room.web.tcp.10.0.0.3"]
    assert rule.endswith(f"add @places.web.10.0.0.3/5 {{ {key} ct count 65535 }} goto b.web.tcp.10.0.0.3")


def test_who_has_a_place_has_that_one_or_waits() -> None:
    """Or the place would be kept for as long as the connection lives, wherever that is."""
    limited = {"max_connections": 5}
    out = {**limited, "state": "disabled"}, {**limited, "weight": 0}
    backup = {**limited, "backup": True}
    key = "meta l4proto {0} ip saddr . {0} sport . ip daddr . {0} dport . meta l4proto @places.web.10.0.0"
    for redispatch, waits in itertools.product((True, False), (True, False)):
        # A backup gets nothing where one before it has always room.
        found = chains(
            rules(limited, *out, {} if waits else limited, backup, redispatch=redispatch, protocol=["tcp", "udp"])
        )
        for protocol in ("tcp", "udp"):
            # What redispatches has been refused where its place is.
            stays = "drop" if redispatch and protocol == "tcp" else f"jump room.web.{protocol}.10.0.0"
            wanted = {3: stays, 4: "drop", 5: "drop", 6: None if waits else stays, 7: "drop" if waits else stays}
            expected = [
                f"{key.format(protocol)}.{number}/5 {verdict}{f'.{number}' if verdict != 'drop' else ''}"
                for number, verdict in wanted.items()
                if verdict
            ]
            assert list(found[f"s.web.{protocol}"][: len(expected)]) == expected
