# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names in a listing are recognised as what they were written for, and no others."""

from __future__ import annotations

import pytest
from _natlb.nftables.names import SlotMap, is_affinity, is_first_slot, slot_map
from _natlb.packets import PROTOCOLS


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("shard", [0, 1, 255])
def test_a_map_of_slots_and_the_chain_of_its_first_slots(protocol: str, shard: int) -> None:
    slots = SlotMap(protocol, shard)
    assert slot_map(slots.name) == slots
    assert not is_first_slot(slots.name)
    assert is_first_slot(slots.first)
    assert slot_map(slots.first) is None


@pytest.mark.parametrize(
    "name",
    [
        "slot",
        "slot_",
        "slot_icmp",
        "slot_tcp_x",
        "slot_tcp_",
        "slot_tcp_1.b",
        "service",
        "s.slot_tcp.tcp",
        "first_slot",
    ],
)
def test_other_names_are_neither(name: str) -> None:
    assert slot_map(name) is None
    assert not is_first_slot(name)


@pytest.mark.parametrize(("name", "is_one"), [("affinity.web.10.0.0.3.8080", True), ("rate.affinity/3", False)])
def test_sets_of_affinity(name: str, is_one: bool) -> None:
    assert is_affinity(name) == is_one
