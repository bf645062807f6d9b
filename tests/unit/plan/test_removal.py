# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes, and whether it is told."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.model.entities import dump
from _natlb.model.services import parse_config
from _natlb.plan import removal, summary


def services(*names: str, first_port: int = 80) -> list[dict[str, Any]]:
    ports = range(first_port, first_port + len(names))
    backends = [{"address": "10.0.0.3"}]
    return [
        {"name": name, "listen": f"192.0.2.10:{port}", "backends": backends}
        for name, port in zip(names, ports, strict=True)
    ]


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        ("", "", ""),
        ("", "abc", ""),
        ("a", "a", ""),
        ("a", "", "1 of the 1 services of this host are removed: a ("),
        ("ab", "b", ""),
        ("ab", "", "2 of the 2 services of this host are removed: a, b ("),
        ("abc", "bc", ""),
        ("abc", "c", "2 of the 3 services of this host are removed: a, b ("),
        ("abcd", "cd", ""),
        ("abcdefgh", "h", "7 of the 8 services of this host are removed: a, b, c, d, e and 2 more ("),
    ],
)
def test_a_removal_of_most_is_told(before: str, after: str, gone: str) -> None:
    state = dump(parse_config(services(*before)))
    kept = [service for service in services(*before) if service["name"] in after] if before else services(*after)
    told = removal.warnings(state, parse_config(kept))
    assert bool(told) == bool(gone)
    assert all(f"services: {gone}" in line for line in told)
    # A controller that reaches the host confirms whatever was declared, so going back by itself is no help.
    assert all(line.endswith("(declare them again to keep them)") for line in told)


def test_services_of_other_names_are_the_same_services() -> None:
    assert removal.warnings(dump(parse_config(services("a", "b", "c"))), parse_config(services("x", "y", "z"))) == []


def test_services_elsewhere_are_others() -> None:
    told = removal.warnings(
        dump(parse_config(services("a", "b", "c"))), parse_config(services("x", "y", "z", first_port=8080))
    )
    assert len(told) == 1


def test_egress_that_goes_is_told() -> None:
    ways = [{"source": "10.0.0.0/24"}, {"source": "10.0.1.0/24"}]
    state = dump(parse_config(services("a"), ways))
    (told,) = removal.warnings(state, parse_config(services("a")))
    assert told.startswith("egress: all of the 2 egress rules of this host are removed")
    assert removal.warnings(state, parse_config(services("a"), ways[:1])) == []


WEB = {"name": "web", "listen": "192.0.2.10:80", "snat": "none", "method": "source_hash", "backends": "10.0.0.3:8080"}
OTHER = {"name": "api", "listen": "192.0.2.11:80", "snat": "none", "backends": "10.0.0.3:8080"}


def test_a_service_that_takes_over_no_longer_is_told_with_the_one_that_keeps_it() -> None:
    state, shared = dump(parse_config([WEB])), parse_config([WEB, OTHER])
    (told,) = removal.warnings(state, shared)
    why = (
        "10.0.0.3:8080 is behind tcp 192.0.2.10:80 and tcp 192.0.2.11:80 (service api), so its packets may be of either"
    )
    assert told.startswith("service web: takeover is off from now on")
    assert why in told
    assert "(let each frontend have a port of its own there, or declare takeover: false)" in told
    lost = removal.lost_takeovers(state, shared)
    assert summary.with_summary("+", "", "", lost=lost).splitlines()[-2] == f"web: takeover on -> off ({why})"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [WEB, OTHER]),  # Nobody has had it.
        ([WEB, OTHER], [WEB, OTHER]),  # It was told when it came.
        ([{**WEB, "takeover": False}], [{**WEB, "takeover": False}, OTHER]),
        ([WEB], [{**WEB, "snat": "masquerade"}, OTHER]),  # Its own declaration says so.
        ([WEB], [WEB, {**OTHER, "backends": "10.0.0.3:8081"}]),
        ([WEB], [OTHER]),
    ],
)
def test_nobody_is_told_who_has_lost_nothing(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    state = dump(parse_config(before))
    assert [line for line in removal.warnings(state, parse_config(after)) if "takeover" in line] == []


def test_of_many_services_that_take_over_no_longer_some_are_told() -> None:
    many = [
        {**WEB, "name": f"w{port}", "listen": f"192.0.2.10:{port}", "backends": f"10.0.0.3:{port}"}
        for port in range(1, 31)
    ]
    state = dump(parse_config(many))
    shared = parse_config([*many, {**OTHER, "listen": "192.0.2.11:1-99", "backends": "10.0.0.3"}])
    told = removal.warnings(state, shared)
    assert len(told) == 3
    assert all(line.endswith("; it is off for 27 more services") for line in told)
    head = summary.with_summary("+", "", "", lost=removal.lost_takeovers(state, shared)).splitlines()
    assert (len(head), head[20]) == (22, "takeover on -> off for 10 more services")


@pytest.mark.parametrize(
    "state", [{}, {"services": None}, {"services": 5}, {"services": [5, None]}, {"services": [{"listen": 7}, {}]}]
)
def test_whatever_was_kept_is_read(state: dict[str, Any]) -> None:
    for line in removal.warnings(state, parse_config([])):
        assert "None" in line
