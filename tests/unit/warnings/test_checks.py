# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks that this host cannot make are told at once."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.warnings.checks import warnings

HERE = {"192.0.2.2", "2001:db8::2"}
COMMAND = {"type": "command", "argv": ["/opt/check", "{address}"]}


def told(*healths: dict[str, Any]) -> list[str]:
    services = [
        {"name": f"s{i}", "listen": f"192.0.2.{i}:80", "health": health, "backends": [{"address": "10.0.0.3"}]}
        for i, health in enumerate(healths, 1)
    ]
    found = warnings(parse_config(services), HERE, {"/opt/check", "true"}.__contains__, {"nobody"}.__contains__)
    return list(found)


@pytest.mark.parametrize(
    "health",
    [
        {"type": "tcp"},
        {"type": "tcp", "source": "192.0.2.2"},
        {"type": "http", "source": "2001:DB8::0002", "address": "2001:db8::9"},
        COMMAND,
    ],
)
def test_nothing_is_missing(health: dict[str, Any]) -> None:
    assert told(health) == []


@pytest.mark.parametrize(
    ("health", "words"),
    [
        ({"type": "tcp", "source": "192.0.2.3"}, "health.source: 192.0.2.3 is no address of this host"),
        ({**COMMAND, "argv": ["/opt/chekc"]}, "health.argv: /opt/chekc is no program of this host"),
        ({**COMMAND, "user": "checker"}, "health.user: this host has no user checker"),
    ],
)
def test_what_is_missing(health: dict[str, Any], words: str) -> None:
    (found,) = told(health)
    assert found.startswith(f"service s1: {words}, so nobody checks its backends (")


def test_many_services_are_one_warning() -> None:
    (found,) = told(*[{**COMMAND, "argv": "/opt/chekc"}] * 5)
    assert found.startswith("service s1, s2, s3 and 2 more: health.argv: /opt/chekc")
