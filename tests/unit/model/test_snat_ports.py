# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source ports that are those of services, and how many connections a range allows."""

from __future__ import annotations

import random
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.iptables import render as iptables
from _natlb.model.entities import Config
from _natlb.model.services import parse_config
from _natlb.model.snat_ports import room
from _natlb.nftables import render as nftables
from _natlb.warnings import few_ports

BACKENDS = [{"address": "10.0.0.3", "port": 80}]


def service(name: str = "a", **keys: Any) -> dict[str, Any]:
    given = {"name": name, "listen": "192.0.2.10:80", "backends": BACKENDS, "snat_ports": "20000-29999", **keys}
    return {key: value for key, value in given.items() if value is not None}


def config(**keys: Any) -> Config:
    return parse_config([service(**keys)])


def errors(*services: dict[str, Any], egress: Any = None) -> list[str]:
    try:
        parse_config(list(services), egress)
    except ConfigErrors as error:
        return [str(one) for one in error.errors]
    return []


def other(listen: str, **keys: Any) -> dict[str, Any]:
    return service("b", listen=listen, snat_ports=None, **keys)


@pytest.mark.parametrize(
    ("listen", "keys", "collides"),
    [
        ("192.0.2.11:20000", {}, True),
        ("192.0.2.11:29999", {}, True),
        ("192.0.2.11:19999", {}, False),
        ("192.0.2.11:30000", {}, False),
        ("192.0.2.11:19000-21000", {}, True),
        ("192.0.2.11:10000-40000", {}, True),
        ("*:25000", {}, True),
        # Of an address only those that listen there.
        ("192.0.2.11:25000", {"snat": "192.0.2.12"}, False),
        ("192.0.2.12:25000", {"snat": "192.0.2.12"}, True),
        ("192.0.2.12:25000", {"snat": ["192.0.2.13", "192.0.2.12"]}, True),
        ("*:25000", {"snat": "192.0.2.12"}, True),
        ("192.0.2.11:25000", {"snat": "192.0.2.12", "protocol": "udp"}, False),
        ("192.0.2.0/28:25000", {"snat": "192.0.2.12"}, True),
        ("192.0.2.128/28:25000", {"snat": "192.0.2.12"}, False),
        ("192.0.2.128/28:25000", {}, True),
        # What some clients or backends get counts as well.
        ("192.0.2.11:25000", {"snat": "192.0.2.12", "snat_by_client": [("10.0.0.0/8", "masquerade")]}, True),
        ("192.0.2.11:25000", {"snat": "192.0.2.12", "backends": [{**BACKENDS[0], "snat": "masquerade"}]}, True),
        ("192.0.2.11:25000", {"snat": "192.0.2.12", "snat_by_client": [("10.0.0.0/8", "none")]}, False),
        ("192.0.2.11:25000", {"protocol": "udp"}, False),
    ],
)
def test_ports_at_which_services_listen(listen: str, keys: dict[str, Any], collides: bool) -> None:
    rules = [{"networks": [network], "snat": snat} for network, snat in keys.get("snat_by_client", ())]
    found = errors(service(**{**keys, "snat_by_client": rules}), other(listen))
    assert [error.partition(": ")[0] for error in found] == ["services[0].snat_ports"] * collides, found
    assert all(f"of tcp {listen}, where service b listens" in error for error in found)


@pytest.mark.parametrize(
    ("keys", "collides"),
    [
        ({}, True),
        ({"protocol": "tcp"}, True),
        ({"protocol": "udp"}, False),
        ({"snat_ports": "25001-29999"}, False),
        ({"snat": "192.0.2.11"}, True),
        ({"snat": "192.0.2.12"}, False),
        ({"source": ["10.0.0.0/24", "2001:db8::/64"]}, True),
        ({"source": "2001:db8::/64"}, False),
    ],
)
def test_ports_of_egress_at_which_services_listen(keys: dict[str, Any], collides: bool) -> None:
    rule = {"source": "10.0.0.0/24", "snat_ports": "20000-29999", **keys}
    found = errors(other("192.0.2.11:25000"), egress=[{"source": "10.9.0.0/24"}, rule])
    problem = "20000-29999 has a port of tcp 192.0.2.11:25000, where service b listens"
    assert [error.partition(" (")[0] for error in found] == [f"egress[1].snat_ports: {problem}"] * collides


def test_a_wide_range_is_found_behind_a_narrow_one() -> None:
    wide, narrow = other("192.0.2.11:10000-40000"), {**other("192.0.2.12:15000"), "name": "c"}
    assert len(errors(service(), wide, narrow)) == 1


def test_the_other_family_is_another_place() -> None:
    six = {"listen": "[2001:db8::1]:25000", "backends": [{"address": "2001:db8::3", "port": 80}]}
    assert not errors(service(), other(**six))


def test_what_is_listened_on_is_found_among_others() -> None:
    """As a look at all of them finds it."""
    chance = random.Random(7)
    for _unused in range(60):
        low = chance.randrange(100, 140)
        ports = (low, low + chance.randrange(8))
        listens = []
        for number in range(chance.randrange(1, 7)):
            first = 100 + 10 * chance.randrange(5) + chance.randrange(4)
            listens.append((f"192.0.2.{20 + number}", first, first + chance.randrange(5)))
        others = [service(f"b{i}", listen=f"{a}:{x}-{y}", snat_ports=None) for i, (a, x, y) in enumerate(listens)]
        found = errors(service(listen="192.0.2.10:9", snat_ports=f"{ports[0]}-{ports[1]}"), *others)
        assert bool(found) == any(x <= ports[1] and ports[0] <= y for _address, x, y in listens), (ports, listens)


@pytest.mark.parametrize(
    ("keys", "connections"),
    [
        ({"snat_ports": None}, None),
        ({}, 10000),
        ({"snat_ports": "20000"}, 1),
        ({"snat": ["10.0.0.8", "10.0.0.9"]}, 20000),
        ({"snat": ["10.0.0.8", "10.0.0.9"], "snat_by_client": [{"networks": "10.0.0.0/8", "snat": "10.0.0.7"}]}, 10000),
        ({"snat": ["10.0.0.8", "10.0.0.9"], "snat_by_client": [{"networks": "10.0.0.0/8", "snat": "none"}]}, 20000),
    ],
)
def test_room(keys: dict[str, Any], connections: int | None) -> None:
    assert room(config(**keys).services[0]) == connections


@pytest.mark.parametrize(
    ("keys", "local", "words"),
    [
        ({}, "32768 60999", ""),
        ({"snat_ports": "20000-20099"}, "32768 60999", "allows 100 connections at a time to one backend, closed"),
        ({"snat_ports": "40000-40099"}, "32768 60999", "(connections of this host itself take ports of 32768-60999 as"),
        ({"snat_ports": "40000-40099"}, None, "allows 100 connections at a time to one backend, closed"),
        ({"backends": [{**BACKENDS[0], "max_connections": 10001}]}, "32768 60999", "allows 10000 connections"),
        ({"backends": [{**BACKENDS[0], "max_connections": 10000}]}, "32768 60999", ""),
        ({"snat_ports": None}, None, ""),
    ],
)
def test_few_ports_are_told(keys: dict[str, Any], local: str | None, words: str) -> None:
    found = list(few_ports.warnings(config(**keys), {few_ports.LOCAL_PORTS: local}.get))
    assert (len(found), words in " ".join(found)) == (bool(words), True), found


def test_nothing_is_read_where_no_service_names_ports() -> None:
    assert not list(few_ports.warnings(config(snat_ports=None), pytest.fail))


@pytest.mark.parametrize("engine", [nftables, iptables])
def test_what_is_not_used_is_not_rendered(engine: Any) -> None:
    assert "20000" not in str(engine.render(config(snat_ports=None)))
    assert "20000-29999" in str(engine.render(config()))
