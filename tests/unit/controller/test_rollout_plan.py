# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is changed first, and how many at a time."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.natlb.netfilter.plugins.filter.rollout_plan import rollout_plan

SHARED = [{"addresses": ["192.0.2.10/24", "2001:DB8:1::10/64"], "interface": "eth0", "router_id": 51}]
NONE = "lo UNKNOWN 127.0.0.1/8 ::1/128\neth0@if5 UP 192.0.2.2/24 fe80::1/64\n"


def host(told: str = NONE, **more: Any) -> dict[str, Any]:
    return {"natlb_failover_addresses": SHARED, "natlb_run_reached": {"stdout": told}, **more}


@pytest.mark.parametrize(
    ("told", "holds"),
    [
        (NONE, False),
        ("eth0 UP 192.0.2.2/24 192.0.2.10/24", True),
        ("eth0 UP 192.0.2.10/32", True),
        ("eth0 UP 2001:db8:1::10/64", True),
        ("eth0 UP 192.0.2.101/24 2001:db8:1::1/64", False),
        ("", False),
    ],
)
def test_who_has_an_address_comes_last(told: str, holds: bool) -> None:
    hostvars = {"lb1": host(told), "lb2": host(), "lb3": host()}
    found = rollout_plan(hostvars, ["lb1", "lb2", "lb3"], [1, "100%"], 5)
    assert found["hosts"] == (["lb2", "lb3", "lb1"] if holds else ["lb1", "lb2", "lb3"])


def test_without_virtual_addresses_it_is_the_inventory() -> None:
    hostvars = {"lb1": {"natlb_run_reached": {"stdout": "eth0 UP 192.0.2.10/24"}}, "lb2": {}}
    assert rollout_plan(hostvars, ["lb1", "lb2"], 1, 5) == {"hosts": ["lb1", "lb2"], "serial": [1]}
    assert rollout_plan({}, [], [1], 5)["hosts"] == "all:!all"


@pytest.mark.parametrize(
    ("hosts", "serial", "forks", "batches"),
    [
        (3, [1, "10%", "100%"], 5, [1, 1, 3]),
        (1000, [1, "10%", "100%"], 50, [1, 50, 50]),
        (1000, [1, "10%", "100%"], 2000, [1, 100, 1000]),
        (20, "30%", 50, [6]),
        (20, 30, 5, [5]),
        (20, "7", 50, [7]),
    ],
)
def test_a_batch_that_waits_is_no_larger_than_what_is_done_at_a_time(
    hosts: int, serial: Any, forks: int, batches: list[int]
) -> None:
    names = [f"lb{number}" for number in range(hosts)]
    assert rollout_plan({name: {} for name in names}, names, serial, forks)["serial"] == batches


def test_nobody_waits_who_is_not_verified() -> None:
    hostvars = {"lb1": {"natlb_verify_each": "no"}, "lb2": {"natlb_verify_each": False}}
    assert rollout_plan(hostvars, ["lb1", "lb2"], [1, "100%"], 1)["serial"] == [1, "100%"]
