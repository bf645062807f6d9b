# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings about what iptables does otherwise than declared."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.iptables.engine import IptablesEngine
from _natlb.model.services import parse_config

SHIFTED = {"address": "10.0.0.3", "port": "+1000"}
BOTH = [SHIFTED, {"address": "2001:db8:2::3", "port": "+1000"}]


@pytest.mark.parametrize(
    ("keys", "warned"),
    [
        ({"snat": "none"}, False),
        ({"snat": "none", "listen": ["192.0.2.10:80-89", "192.0.2.11:80-89"]}, True),
        ({"listen": ["192.0.2.10:80-89", "192.0.2.11:80-89"]}, False),
        ({"snat": "none", "listen": "*:80-89"}, True),
        ({"snat": "none", "listen": ["192.0.2.10:80-89", "[2001:db8::10]:80-89"], "backends": BOTH}, False),
        ({"snat": "none", "listen": ["192.0.2.10:80-89", "192.0.2.11:80-89"], "backends": ["10.0.0.3"]}, False),
    ],
)
def test_ports_that_are_shifted(keys: dict[str, Any], warned: bool) -> None:
    declared = {"name": "web", "listen": "192.0.2.10:80-89", "backends": [SHIFTED], **keys}
    # Its program is not asked.
    found = IptablesEngine.warnings(object.__new__(IptablesEngine), parse_config([declared]))
    assert [("service web: on iptables" in text) for text in found] == [True] * warned
