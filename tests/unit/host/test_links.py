# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Interfaces that are declared, and those that the host has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from _natlb.host import proc
from _natlb.host.links import Link, parse
from _natlb.host.routes import Routes
from _natlb.model.outbound import Uplink
from _natlb.model.services import parse_config
from _natlb.warnings.interfaces import idle, idle_warnings, warnings

LINKS = [
    Link("lo"),
    Link("front", "veth"),
    Link("back", "veth"),
    Link("br0", "bridge"),
    Link("port1", "veth", "br0", "bridge"),
    Link("slave", "", "bond0", "bond"),
    Link("red", "", "vrf1", "vrf"),
    Link("eth0.100", "vlan"),
]


def declared(interface: str, **keys: Any) -> Any:
    backends = [{"address": "10.0.0.3"}]
    return parse_config([{"name": "web", "listen": "*:80", "interface": interface, "backends": backends}], **keys)


@pytest.mark.parametrize(
    ("interface", "said"),
    [
        ("front", ""),
        ("eth0.100", ""),
        ("red", ""),
        ("frnt", "no interface frnt, so no connection comes in by it; it has front, "),
        ("Front", "no interface Front, so no connection comes in by it; it has front, "),
        ("port1", "port1 is a port of the bridge br0, so no connection comes in by it; write br0"),
        ("slave", "slave is a port of the bond bond0, so no connection comes in by it; write bond0"),
    ],
)
def test_a_way_in(interface: str, said: str) -> None:
    told = warnings(declared(interface), LINKS)
    assert len(told) == bool(said)
    assert all(text.startswith("service web: ") and said in text for text in told)


def test_ways_out() -> None:
    uplinks = [{"interface": name, "gateway": "192.0.2.1"} for name in ("back", "up1")]
    egress = [{"source": "10.0.0.0/24", "out_interface": "port1"}, {"source": "10.0.1.0/24", "uplinks": uplinks}]
    told = warnings(parse_config([], egress), LINKS)
    assert told[0].startswith("egress of 10.0.0.0/24: port1 is a port of the bridge br0, so nothing leaves by it")
    assert len(told) == 1


@pytest.mark.parametrize(
    ("here", "why"),
    [
        (["back", "front"], "this host has no interface frnt (it has front, back)"),
        ([], "this host has no interface frnt (it has none but lo)"),
        # What the test itself runs on has no such interface either, so it is not up.
        (["frnt"], "frnt is down"),
    ],
)
def test_an_uplink_that_has_no_route(here: list[str], why: str) -> None:
    """One warning, with what happens to its connections, and with the interfaces there are."""
    found = idle([Uplink("ip", "frnt", "192.0.2.1", 1)], Routes(), here)
    (told,) = idle_warnings(found)
    assert told == (
        f"uplink frnt via 192.0.2.1: {why}, so it has no route; until it has one, its connections take the default "
        "route of the main table"
    )


def test_a_host_with_nothing_but_loopback() -> None:
    (told,) = warnings(declared("front"), [Link("lo")])
    assert told.endswith("it has none but lo")


def test_what_ip_prints_is_read() -> None:
    port = {
        "ifname": "p",
        "master": "br0",
        "linkinfo": {"info_kind": "veth", "info_slave_kind": "bridge", "info_slave_data": {"hairpin": True}},
    }
    assert parse(json.dumps([{"ifname": "lo"}, {}, port])) == [Link("lo"), Link("p", "veth", "br0", "bridge", True)]
    assert parse("") == []


TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
     |-- 192.0.2.0
        /24 link UNICAST
        /26 host LOCAL
     |-- 192.0.2.2
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
"""


def test_local_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "read", lambda path: TRIE if path.endswith("fib_trie") else "")
    assert proc.local_addresses() == {"127.0.0.1", "192.0.2.2"}
    assert proc.local_networks() == ["127.0.0.0/8", "192.0.2.0/26"]
