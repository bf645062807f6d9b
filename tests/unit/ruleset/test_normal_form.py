# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which sections the kernel is asked about; what it answers is tested in tests/kernel/test_normal_form.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from _natlb.ruleset.normal_form import ask, excerpt, known_rules
from _natlb.ruleset.sections import Key, Ruleset, Section


def chain(name: str, *rules: str) -> Ruleset:
    return {Key("ip", "natlb", "chain", name): Section((), rules)}


class Engine:
    """Lists what it is given in capital letters, and keeps what it was asked about."""

    title = "nftables"

    def __init__(self, namespace: bool = True) -> None:
        self.namespace = namespace
        self.program = "nft 1"
        self.asked: list[Ruleset] = []
        self.live: Ruleset = {}

    def identity(self) -> str:
        return self.program

    def texts(self, rendered: Ruleset) -> dict[str, str]:
        self.asked.append(rendered)
        return {"nft": str(len(self.asked))}

    def normal(self, _unit: str, text: str) -> str | None:
        return text if self.namespace else None

    def parse(self, _unit: str, listing: str) -> Ruleset:
        return listed(self.asked[int(listing) - 1])

    def listed(self) -> Ruleset:
        return self.live

    def uniform(self, key: Key, _section: Section) -> bool:
        return key[2] == "map"


def listed(rendered: Ruleset) -> Ruleset:
    return {key: Section(section.header, tuple(map(str.upper, section.body))) for key, section in rendered.items()}


def known_after(engine: Any, rendered: Ruleset) -> dict[str, Any]:
    """What a later run reads from its file."""
    found: dict[str, Any] = json.loads(json.dumps({engine.title: ask(engine, rendered, {}).known_after_load()}))
    engine.asked.clear()
    return found


BEFORE = {**chain("web", "dnat one"), **chain("dns", "dnat two")}
AFTER = {**chain("web", "dnat one"), **chain("dns", "dnat three"), **chain("new", "dnat four")}


def test_only_what_is_new_is_asked_about() -> None:
    engine: Any = Engine()
    known = known_after(engine, BEFORE)
    assert ask(engine, BEFORE, known).ruleset == listed(BEFORE)
    assert engine.asked == []
    normal = ask(engine, AFTER, known)
    assert normal.ruleset == listed(AFTER)
    assert engine.asked == [{**chain("dns", "dnat three"), **chain("new", "dnat four")}]
    assert normal.known_after_load() == ask(engine, AFTER, {}).known_after_load()


def test_many_lines_are_asked_about_in_halves() -> None:
    engine: Any = Engine()
    jumps = chain("first", *[f"goto service{i}" for i in range(1000)])
    many = {**jumps, **{key: section for i in range(1000) for key, section in chain(f"service{i}", "dnat").items()}}
    assert ask(engine, many, {}).ruleset == listed(many)
    lines = [sum(1 + len(section.body) for section in part.values()) for part in engine.asked]
    filled = [sum(len(section.body) for section in part.values()) for part in engine.asked]
    assert sum(filled) == 2000
    assert min(filled) > 600
    # What the first half leads to is there too, but bare.
    assert sum(lines) > 3001
    engine.asked.clear()
    jump = Key("ip", "natlb", "chain", "first")
    known = {engine.title: ask(engine, {**many, jump: Section((), ("drop",))}, {}).known}
    engine.asked.clear()
    assert ask(engine, many, known).ruleset == listed(many)
    assert [len(part) for part in engine.asked] == [1001]


DNS = "ip natlb chain dns"


@pytest.mark.parametrize(
    "other",
    [
        {"nftables": None},
        {"nftables": {"sections": ["?"]}},
        {"nftables": {"sections": {DNS: 7, "ip natlb chain web": [None, 7, 7]}}},
        {"nftables": {"identity": "nft 2"}},
        {"iptables": {}},
    ],
    ids=str,
)
def test_what_cannot_be_relied_on_is_asked_again(other: Any) -> None:
    engine: Any = Engine()
    known = known_after(engine, BEFORE)
    known = {title: {**known["nftables"], **entry} if entry is not None else None for title, entry in other.items()}
    assert ask(engine, BEFORE, known).ruleset == listed(BEFORE)
    assert engine.asked == [BEFORE]


def test_rules_are_kept_as_they_are_listed_and_as_they_are_rendered() -> None:
    engine: Any = Engine()
    known = known_after(engine, BEFORE)
    assert known_rules(engine, known) == listed(BEFORE)
    assert known_rules(engine, known, rendered=True) == BEFORE


def test_an_older_version_did_not_say_how_they_are_rendered() -> None:
    """Its lines are believed as far as they go, and are not handed on as lines of this version."""
    engine: Any = Engine()
    entry = known_after(engine, BEFORE)["nftables"]
    older = {name: line[:3] for name, line in entry["sections"].items()}
    known = {"nftables": {"identity": entry["identity"], "sections": older}}
    assert known_rules(engine, known) == listed(BEFORE)
    assert known_rules(engine, known, rendered=True) is None
    normal = ask(engine, BEFORE, known)
    assert engine.asked == []
    known = json.loads(json.dumps({"nftables": normal.known_after_load()}))
    assert known_rules(engine, known) == listed(BEFORE)
    assert known_rules(engine, known, rendered=True) == BEFORE


def test_without_a_namespace_the_host_tells_afterwards() -> None:
    engine: Any = Engine(namespace=False)
    normal = ask(engine, BEFORE, {})
    assert normal.ruleset == BEFORE
    engine.live = {**listed(BEFORE), **chain("of others", "accept")}
    known = {engine.title: normal.known_after_load()}
    engine.asked.clear()
    assert ask(engine, BEFORE, known).ruleset == listed(BEFORE)
    assert engine.asked == []


def elements(*body: str) -> Ruleset:
    return {Key("ip", "natlb", "map", "slots"): Section(("typeof …",), body)}


def test_of_uniform_elements_one_is_asked_about() -> None:
    engine: Any = Engine()
    many = elements("0 : 10.0.0.3", "1 : 10.0.0.4", "2 : 10.0.0.5")
    normal = ask(engine, many, {})
    assert engine.asked == [elements("0 : 10.0.0.3")]
    assert normal.ruleset == many
    known = json.loads(json.dumps({engine.title: normal.known_after_load()}))
    engine.asked.clear()
    assert ask(engine, many, known).ruleset == many
    assert engine.asked == []


def test_where_one_is_listed_otherwise_all_are_asked_about() -> None:
    engine: Any = Engine()
    many = {**elements("0 : goto a", "1 : goto b"), **chain("a", "drop"), **chain("b", "drop")}
    assert ask(engine, many, {}).ruleset == listed(many)
    assert engine.asked[-1] == {**elements("0 : goto a", "1 : goto b"), **chain("a"), **chain("b")}


NFT = {
    **chain("prerouting", "ip daddr . meta l4proto . th dport vmap @service"),
    **chain("s.web.tcp", "dnat ip to ip daddr . tcp dport . numgen inc mod 4 map @slot_tcp", "goto first_slot_tcp"),
    **chain("first_slot_tcp", "dnat ip to ip daddr . tcp dport . numgen random mod 1 map @slot_tcp"),
    **chain("postrouting", "ct status dnat jump source_nat"),
    **chain("source_nat", "meta l4proto tcp ct original ip daddr vmap @source_nat"),
    Key("ip", "natlb", "map", "source_nat"): Section(("type …",), ("1 : goto source_nat",)),
    Key("ip", "natlb", "map", "service"): Section(("type …",), ("192.0.2.10 . 6 . 80 : goto s.web.tcp",)),
    Key("ip", "natlb", "map", "slot_tcp"): Section(("typeof …", "counter"), ("192.0.2.10 . 80 . 0 : 10.0.0.3 . 8080",)),
    Key("ip6", "natlb", "chain", "s.web.tcp"): Section((), ("accept",)),
}
IPTABLES = {
    Key("ip", "nat", "chain", "NATLB.pre"): Section((), ("-A NATLB.pre -p tcp -j NATLB..d.tcp",)),
    Key("ip", "nat", "chain", "NATLB..d.tcp"): Section((), ("-A NATLB..d.tcp -d 192.0.2.10/32 -g NATLB.web.tcp",)),
    Key("ip", "nat", "chain", "NATLB.web.tcp"): Section((), ("-A NATLB.web.tcp -j DNAT --to-destination 10.0.0.3",)),
    Key("ip", "filter", "chain", "NATLB.pre"): Section((), ("-A NATLB.pre -j RETURN",)),
    Key("ip", "nat", "jump", "PREROUTING"): Section((), ("-A PREROUTING -j NATLB.pre",)),
}


@pytest.mark.parametrize(
    ("ruleset", "key", "stubs"),
    [
        (NFT, Key("ip", "natlb", "chain", "prerouting"), ["map service"]),
        (NFT, Key("ip", "natlb", "chain", "s.web.tcp"), ["chain first_slot_tcp", "map slot_tcp"]),
        (NFT, Key("ip", "natlb", "map", "service"), ["chain s.web.tcp"]),
        (NFT, Key("ip", "natlb", "map", "slot_tcp"), []),
        (NFT, Key("ip", "natlb", "chain", "postrouting"), ["chain source_nat"]),
        (IPTABLES, Key("ip", "nat", "jump", "PREROUTING"), ["chain NATLB.pre"]),
        (IPTABLES, Key("ip", "nat", "chain", "NATLB.pre"), ["chain NATLB..d.tcp"]),
        (IPTABLES, Key("ip", "nat", "chain", "NATLB..d.tcp"), ["chain NATLB.web.tcp"]),
        (IPTABLES, Key("ip", "nat", "chain", "NATLB.web.tcp"), []),
    ],
)
def test_an_excerpt_has_what_it_leads_to(ruleset: Ruleset, key: Any, stubs: list[str]) -> None:
    found = excerpt(ruleset, [key])
    assert found.pop(key) == ruleset[key]
    assert sorted(f"{other[2]} {other[3]}" for other in found) == stubs
    for other, section in found.items():
        assert other[:2] == key[:2]
        assert section == Section(ruleset[other].header, ())
