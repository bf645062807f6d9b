# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services whose clients a strict reverse path filter drops."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.warnings.reverse_path import marked, without_return_route

WAYS = [
    (ipaddress.ip_network(network), interface)
    for network, interface in (
        ("0.0.0.0/0", "eth0"),
        ("192.0.2.0/24", "eth0"),
        ("10.0.0.0/24", "eth1"),
        ("198.51.100.0/24", "eth1"),
        ("::/0", "eth2"),
        ("2001:db8::/64", "eth1"),
    )
]


@pytest.mark.parametrize(
    ("keys", "lost"),
    [
        ({"interface": "eth0"}, False),
        ({"interface": "eth1"}, False),
        ({"interface": "eth1", "allow_from": "198.51.100.128/25"}, False),
        ({"interface": "eth1", "allow_from": "203.0.113.0/24"}, True),
        ({"interface": "eth1", "allow_from": ["203.0.113.0/24", "198.51.0.0/16"]}, False),
        ({"interface": "eth2"}, True),
        ({"interface": "eth3"}, False),
        ({"allow_from": "203.0.113.0/24"}, False),
    ],
)
def test_clients_without_a_way_back(keys: dict[str, Any], lost: bool) -> None:
    web = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}], **keys}
    assert [service.name for service in without_return_route(parse_config([web]), WAYS, {"eth0", "eth1", "eth2"})] == [
        "web"
    ] * lost


def test_ipv6_has_no_such_filter() -> None:
    web = {"name": "web", "listen": "[2001:db8:9::1]:80", "interface": "eth0", "backends": [{"address": "2001:db8::3"}]}
    assert without_return_route(parse_config([web]), WAYS, {"eth0"}) == []


@pytest.mark.parametrize(
    ("keys", "strict", "told"),
    [
        ({"mark": "0x10/0xff"}, "eth3", True),
        ({"backends": [{"address": "10.0.0.3", "mark": "0x10/0xff"}]}, "eth3", True),
        ({"mark": "0x10/0xff"}, "eth1", False),
        ({"mark": "0x20/0xff"}, "eth3", False),
        ({"mark": "0x0/0xff"}, "eth3", False),
        ({}, "eth3", False),
    ],
)
def test_answers_that_come_in_where_a_mark_has_led_their_packets(keys: dict[str, Any], strict: str, told: bool) -> None:
    web = {"name": "web", "listen": "192.0.2.10:80", "backends": ["10.0.0.3"], **keys}
    found = list(marked(parse_config([web]), lambda _to, mark: "eth3" if mark == 0x10 else "eth1", strict.__eq__))
    assert [one.partition(" because")[0] for one in found] == ["service web: packets to 10.0.0.3 leave by eth3"] * told


def test_few_questions_are_asked_about_many_marks() -> None:
    """Each is a program that runs while others wait for the lock."""
    asked: list[tuple[str, int]] = []
    services = [
        {
            "name": f"s{number}",
            "listen": f"192.0.2.10:{1000 + number}",
            "mark": 1 + number % 40,
            "backends": [f"10.0.{number}.{host}" for host in range(1, 5)],
        }
        for number in range(100)
    ]

    def way(address: str, mark: int) -> str:
        asked.append((address, mark))
        return "eth3" if mark else "eth1"

    found = list(marked(parse_config(services), way, "eth3".__eq__))
    assert len(asked) == 32
    assert len({mark for _address, mark in asked}) == 17
    assert len(found) == 16
