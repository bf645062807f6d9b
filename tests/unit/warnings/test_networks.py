# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks that have the backends of their own service, and those that nobody answers for."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from _natlb.host.routes import Ways
from _natlb.model.services import parse_config
from _natlb.warnings.networks import Own, unanswered, warnings

WAYS = Ways([(ipaddress.ip_network("10.0.0.0/24"), "back"), (ipaddress.ip_network("0.0.0.0/0"), "front")])


def said(listen: str, **keys: Any) -> list[str]:
    return list(warnings(parse_config([{"name": "web", "listen": listen, "backends": ["10.0.0.3:80"], **keys}]), WAYS))


@pytest.mark.parametrize(
    "keys",
    [
        {"listen": "0.0.0.0/0:80-81"},
        {"listen": "10.0.0.0/30:80-81"},
        {"listen": "0.0.0.0/0:80-81", "interface": "back"},
        {"listen": "0.0.0.0/0:80-81", "allow_from": ["10.0.0.0/8"]},
    ],
)
def test_backends_that_come_back(keys: Any) -> None:
    (one,) = said(**keys)
    assert one.startswith("service web: its backends 10.0.0.3 are in ")
    assert "connections that they open to port 80-81 of that network are balanced as well" in one


@pytest.mark.parametrize(
    "keys",
    [
        {"listen": "0.0.0.0/0:80", "interface": "front"},
        {"listen": "198.51.100.0/24:80"},
        {"listen": "10.0.0.4/30:80"},
        {"listen": "192.0.2.10:80"},
        {"listen": "*:80"},
        {"listen": "0.0.0.0/0:80", "allow_from": ["198.51.100.0/24"]},
        {"listen": "0.0.0.0/0:80", "backends": []},
    ],
)
def test_backends_that_do_not(keys: Any) -> None:
    assert not said(**keys)


LINKS = [(ipaddress.ip_network(net), name) for net, name in (("192.0.2.0/24", "front"), ("2001:db8::/64", "front"))]


@pytest.mark.parametrize(
    ("keys", "asks"),
    [
        ({"listen": "192.0.2.64/27:80"}, "ARP"),
        ({"listen": "192.0.2.0/26:80", "interface": "front"}, "ARP"),
        ({"listen": "[2001:db8::40/122]:80", "backends": "[2001:db8:2::3]:80"}, "neighbour discovery"),
        # Routers send these here.
        ({"listen": "198.51.100.0/24:80"}, ""),
        ({"listen": "0.0.0.0/0:80"}, ""),
        ({"listen": "192.0.2.0/23:80"}, ""),
        # Clients come in elsewhere.
        ({"listen": "192.0.2.64/27:80", "interface": "back"}, ""),
        # Another warning is of these.
        ({"listen": "192.0.2.10:80"}, ""),
        ({"listen": "*:80"}, ""),
        # This host answers.
        ({"listen": "192.0.2.128/28:80"}, ""),
        ({"listen": "192.0.2.192/28:80"}, ""),
        ({"listen": "192.0.2.208/28:80"}, ""),
        ({"listen": "[2001:db8::90/124]:80", "backends": "[2001:db8:2::3]:80"}, ""),
        # It is said once.
        ({"listen": ["192.0.2.64/27:80", "192.0.2.64/27:443"]}, "ARP"),
    ],
)
def test_networks_of_a_link_that_nobody_answers_for(keys: Any, asks: str) -> None:
    config = parse_config([{"name": "web", "backends": "10.0.0.3", **keys}])
    own = Own({"192.0.2.210", "192.0.2.250", "2001:db8::2", "2001:db8::91"}, ["127.0.0.0/8", "192.0.2.128/26"])
    found = list(unanswered(config, LINKS, own, lambda: ["192.0.2.193"]))
    assert [f"answers no {asks} for" in text for text in found] == [True] * bool(asks)
    assert all(("ip route add local 192.0.2." in text) == (asks == "ARP") for text in found)
