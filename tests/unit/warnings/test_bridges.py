# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends behind a bridge that passes its frames through our rules."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from _natlb.host.links import Link
from _natlb.host.routes import Ways
from _natlb.model.services import parse_config
from _natlb.warnings.bridges import bridged_backends, warning

LINKS = [
    Link("front"),
    Link("br0", "bridge"),
    Link("a", "veth", "br0", "bridge"),
    Link("b", "veth", "br0", "bridge", hairpin=True),
]
WAYS = Ways([(ipaddress.ip_network("10.9.0.0/24"), "br0"), (ipaddress.ip_network("0.0.0.0/0"), "front")])


def found(**keys: Any) -> dict[str, dict[str, list[str]]]:
    web = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.9.0.3"}], **keys}
    return bridged_backends(parse_config([web]), LINKS, WAYS, ["ip"])


@pytest.mark.parametrize(
    ("keys", "asks"),
    [
        ({}, True),
        ({"interface": "br0"}, True),
        ({"interface": "front"}, False),
        ({"allow_from": "10.0.0.0/8"}, True),
        ({"allow_from": "198.51.100.0/24"}, False),
        ({"backends": [{"address": "198.51.100.3"}]}, False),
        ({"backends": [{"address": "10.9.0.3", "state": "disabled"}]}, False),
    ],
)
def test_who_may_choose_itself(keys: dict[str, Any], asks: bool) -> None:
    assert found(**keys) == ({"br0": {"service web": ["10.9.0.3"]}} if asks else {})


def test_only_families_whose_frames_are_filtered() -> None:
    web = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.9.0.3"}]}
    assert bridged_backends(parse_config([web]), LINKS, WAYS, ["ip6"]) == {}


@pytest.mark.parametrize(
    ("ports", "named"),
    [({}, "a"), ({"10.9.0.3": "a"}, "a"), ({"10.9.0.3": "b"}, ""), ({"10.9.0.9": "b"}, "a")],
)
def test_the_ports_that_want_hairpin_mode(ports: dict[str, str], named: str) -> None:
    text = warning("br0", found()["br0"], LINKS, ports)
    assert (f"for the ports of backends ({named})," in text) if text else not named
