# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks as they are typed, what two of them are together, and the rules that they become."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model import kept
from _natlb.model.entities import dump
from _natlb.model.mark_keys import read_mark
from _natlb.model.marks import Mark, mark_of
from _natlb.model.services import parse_config
from _natlb.nftables import render as nftables
from _natlb.ruleset.sections import Ruleset

UPLINKS = [{"source": "10.0.0.0/24"}, {"source": "10.0.0.0/24", "uplinks": [{"interface": "wg0"}]}]
WEB: dict[str, Any] = {"address": "10.0.0.3", "port": 8080}


def service(name: str = "web", **keys: Any) -> dict[str, Any]:
    return {"name": name, "listen": "192.0.2.10:80", "backends": [WEB], **keys}


def rules(*services: dict[str, Any], family: str = "ip") -> dict[str, list[str]]:
    found: Ruleset = nftables.render(parse_config(list(services)))
    return {key.name: list(section.body) for key, section in found.items() if key.family == family}


@pytest.mark.parametrize(
    ("typed", "mark"),
    [
        ("0x10/0xff", Mark(0x10, 0xFF)),
        ("16/255", Mark(0x10, 0xFF)),
        ("0x0/0xff", Mark(0, 0xFF)),
        ("0x10", Mark(0x10, 0xFFFFFFFF)),
        (16, Mark(0x10, 0xFFFFFFFF)),
        ("0xffffffff/0xffffffff", Mark(0xFFFFFFFF, 0xFFFFFFFF)),
    ],
)
def test_a_mark_is_read(typed: Any, mark: Mark) -> None:
    assert read_mark(typed, "") == mark
    assert mark_of(str(mark)) == mark


def test_of_two_marks_the_bits_of_the_upper_one_count() -> None:
    cases = list(itertools.product(range(4), repeat=2))
    for (value, mask), (below, under), had in itertools.product(cases, cases, range(4)):
        one, other = Mark(value & mask, mask), Mark(below & under, under)
        apart = (had & ~other.mask | other.value) & ~one.mask | one.value
        both = one.over(other)
        assert had & ~both.mask | both.value == apart
    assert Mark(1, 3).over(None) == Mark(1, 3)


def test_marks_are_kept() -> None:
    config = parse_config(
        [service(mark="0x10/0xff", backends=[{**WEB, "mark": 7}, "10.0.0.4"]), service("b", listen="*:81")]
    )
    written = dump(config)["services"]
    assert [(item.get("mark"), [each.get("mark") for each in item["backends"]]) for item in written] == [
        ("0x10/0xff", ["0x7/0xffffffff", None]),
        (None, [None]),
    ]
    assert [kept.service(item, "", {}) for item in written] == list(config.services)


@pytest.mark.parametrize(
    ("keys", "mask", "where"),
    [
        ({"mark": "0x01000000/0x0f000000"}, None, "services[1].mark"),
        ({"mark": 1}, None, "services[1].mark"),
        ({"mark": "0x1/0xff"}, "0x80", "services[1].mark"),
        (
            {"backends": ["10.0.0.3", {"address": "10.0.0.4", "mark": "0x1/0xff"}]},
            "0x80",
            "services[1].backends[1].mark",
        ),
        ({"mark": "0x1/0xff"}, None, ""),
        ({"mark": "0x1/0x7f"}, "0x80", ""),
    ],
)
def test_bits_of_uplinks_are_taken(keys: dict[str, Any], mask: Any, where: str) -> None:
    declared = [service("other", listen="192.0.2.11:80"), service(**keys)]
    parse_config(declared, UPLINKS[:1], mask)
    if not where:
        parse_config(declared, UPLINKS, mask)
        return
    with pytest.raises(ConfigErrors) as caught:
        parse_config(declared, UPLINKS, mask)
    (error,) = caught.value.errors
    assert error.path == where
    shown = f"has bits of mark_mask ({mask or '0x3f000000'}), by which egress[1].uplinks are routed"
    assert shown in str(error)
    assert str(error).endswith("(take other bits, or another mark_mask)")


def test_what_is_not_marked_has_no_rules() -> None:
    both = [service(), service("b", listen="[2001:db8::10]:80", backends=["2001:db8::3"], mark="0x1/0xf")]
    assert rules(*both) == rules(both[0])
    assert {name for name in rules(*both, family="ip6") if "mark" in name} == {
        "marks",
        "marks_output",
        "marks_of_services",
        "marked",
        *(name for name in rules(*both, family="ip6") if name.startswith("marks_by/")),
    }


@pytest.mark.parametrize(
    ("mark", "rule"),
    [
        ("0x10/0xff", "meta mark set meta mark & 0xffffff00 | 0x00000010"),
        ("0x0/0xff", "meta mark set meta mark & 0xffffff00 | 0x00000000"),
        ("0x10", "meta mark set 0x00000010"),
    ],
)
def test_rules_of_a_service(mark: str, rule: str) -> None:
    found = rules(service(mark=mark), service("plain", listen="192.0.2.11:80"))
    (chain,) = [name for name in found if name.startswith("marks_by/")]
    assert found[chain] == [rule]
    assert found["marked"] == [f"192.0.2.10 . 6 . 80 : goto {chain}", "192.0.2.11 . 6 . 80 : return"]
    assert found["marks"] == found["marks_output"] == ["ct direction original ct status dnat jump marks_of_services"]


def test_rules_of_backends() -> None:
    """Ports that two backends of one mark have in common are one element."""
    backends = [
        {"address": "10.0.0.3", "mark": "0x1/0xf"},
        {"address": "10.0.0.3:85", "name": "b", "mark": "0x1/0xf"},
        {"address": "10.0.0.4:81", "mark": "0x20/0xf0"},
        {"address": "10.0.0.5"},
    ]
    found = rules(service(listen="192.0.2.10:80-90", protocol=["tcp", "udp"], backends=backends, mark="0x12/0xff"))
    (name,) = [name for name in found if name.startswith("marked_backends/")]
    assert found["marks_by.web"] == [
        f"ip daddr . meta l4proto . th dport vmap @{name}",
        "meta mark set meta mark & 0xffffff00 | 0x00000012",
    ]
    assert found[name] == [
        "10.0.0.3 . 17 . 80-90 : goto mark_to.0x11_0xff",
        "10.0.0.3 . 6 . 80-90 : goto mark_to.0x11_0xff",
        "10.0.0.4 . 17 . 81 : goto mark_to.0x22_0xff",
        "10.0.0.4 . 6 . 81 : goto mark_to.0x22_0xff",
    ]
    assert found["mark_to.0x22_0xff"] == ["meta mark set meta mark & 0xffffff00 | 0x00000022"]
