# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of which other services leave nothing."""

from __future__ import annotations

import pytest
from _natlb.model.services import parse_config
from _natlb.warnings.covered import warnings


def said(*listens: str) -> list[str]:
    services = [{"name": f"s{n}", "listen": listen, "backends": []} for n, listen in enumerate(listens)]
    return warnings(parse_config(services))


def test_nothing_is_left() -> None:
    (one,) = said("192.0.2.10:80-83", "192.0.2.10:80", "192.0.2.10:83", "192.0.2.10:81-82")
    assert one.startswith("service s0: nothing is left of tcp 192.0.2.10:80-83: services within this range take all")


def test_nothing_is_left_of_a_network() -> None:
    (one,) = said("198.51.100.0/24:80", "198.51.100.0/25:70-90", "198.51.100.128/25:80")
    assert "nothing is left of tcp 198.51.100.0/24:80: services within this network take all of its ports" in one


@pytest.mark.parametrize(
    "listens",
    [
        ("198.51.100.0/24:80", "198.51.100.0/25:80", "198.51.100.192/26:80"),
        ("192.0.2.10:80-83", "192.0.2.10:80", "192.0.2.10:81-82"),
        ("192.0.2.10:80-81", "192.0.2.11:80", "192.0.2.11:81"),
        ("*:80-81", "192.0.2.11:80-81"),
        ("*:80",),
    ],
)
def test_something_is_left(listens: tuple[str, ...]) -> None:
    assert not said(*listens)
