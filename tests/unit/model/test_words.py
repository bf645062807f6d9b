# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people write who come from another balancer: taken where it means the same, answered with our word otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model.entities import Service
from _natlb.model.services import parse_config
from _natlb.model.words import backends_as_given

PLAIN: dict[str, Any] = {"name": "web", "listen": ["192.0.2.10:80"], "backends": [{"address": "10.0.0.3"}]}


def read(**changes: Any) -> Service:
    return parse_config([{**PLAIN, **changes}]).services[0]


def backends(*items: Any) -> list[tuple[str, int | None, int, str]]:
    both = ["192.0.2.10:80", "[2001:db8::10]:80"]
    found = read(listen=both, backends=[*items, "10.0.0.9", "2001:db8:2::9"]).backends[:-2]
    return [(item.address, item.port, item.weight, item.state) for item in found]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("round_robin", ["rr", "wrr", "roundrobin", "static-rr", "round-robin", "RR"]),
        ("random", ["random(1)"]),
        ("least_connections", ["lc", "wlc", "leastconn", "least_conn", "Least-Connections"]),
        ("source_hash", ["sh", "mh", "source", "source-hash"]),
        ("flow_hash", ["flow-hash"]),
        ("destination_hash", ["dh"]),
    ],
)
def test_methods(method: str, words: list[str]) -> None:
    assert {read(method=word).method for word in words} == {method}


@pytest.mark.parametrize("written", ["one_for_one", "one-for-one", "One-For-One"])
def test_backups(written: str) -> None:
    spare = {"address": "10.0.0.4", "backup": True}
    assert read(backups=written, backends=[*PLAIN["backends"], spare]).backups == "one_for_one"


@pytest.mark.parametrize("written", ["tcp,udp", "TCP, UDP", ["UDP", "TCP"]], ids=str)
def test_protocols(written: Any) -> None:
    assert read(protocol=written).protocols == ("tcp", "udp")


def test_the_protocol_of_egress() -> None:
    rule = {"source": "10.0.0.0/24", "protocol": "TCP", "destination_ports": 25}
    assert parse_config([PLAIN], [rule]).egress[0].protocol == "tcp"


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("ip_hash", "write source_hash, and client_prefix"),
        ("hash", "write source_hash (the client's address) or flow_hash"),
        ("maglev", "write source_hash or flow_hash"),
        ("random_two", "write least_connections"),
        ("random(2)", "write least_connections"),
        ("sed", "the nearest is least_connections"),
        ("lblc", "the nearest is destination_hash"),
        ("first", "backup: true"),
    ],
)
def test_methods_that_there_are_not(word: str, remedy: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(method=word)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("10.0.0.3", ("10.0.0.3", None, 1, "active")),
        ("10.0.0.3:8080", ("10.0.0.3", 8080, 1, "active")),
        ("[2001:db8:2::3]:8080", ("2001:db8:2::3", 8080, 1, "active")),
        ("[2001:db8:2::3]", ("2001:db8:2::3", None, 1, "active")),
        ("2001:db8:2::3", ("2001:db8:2::3", None, 1, "active")),
        ({"address": "10.0.0.3:8080", "weight": 3}, ("10.0.0.3", 8080, 3, "active")),
        ({"address": "10.0.0.3", "state": "maint"}, ("10.0.0.3", None, 1, "disabled")),
        ({"address": "10.0.0.3", "state": "down"}, ("10.0.0.3", None, 1, "disabled")),
        ({"address": "10.0.0.3", "state": "drain"}, ("10.0.0.3", None, 1, "drained")),
        ({"address": "10.0.0.3", "state": "ready"}, ("10.0.0.3", None, 1, "active")),
    ],
)
def test_backends(written: Any, found: Any) -> None:
    assert backends(written) == [found]


def test_percentages_are_weights() -> None:
    shares = [{"address": "10.0.0.3", "weight": "75%"}, {"address": "10.0.0.4", "weight": "25%"}]
    assert [item.weight for item in read(backends=shares).backends] == [75, 25]


def test_lists_with_commas() -> None:
    found = read(
        listen="192.0.2.10:80, 192.0.2.10:443",
        protocol="tcp,udp",
        allow_from="198.51.100.0/24, 203.0.113.7",
        backends="10.0.0.3:8080,10.0.0.4:8080",
    )
    assert [str(listen) for listen in found.listens] == ["192.0.2.10:80", "192.0.2.10:443"]
    assert found.protocols == ("tcp", "udp")
    assert found.allow_from == ("198.51.100.0/24", "203.0.113.7/32")
    assert [(item.name, item.port) for item in found.backends] == [("10.0.0.3", 8080), ("10.0.0.4", 8080)]


def test_a_comma_in_an_argument_is_one() -> None:
    found = read(health={"type": "command", "argv": "/opt/a,b"})
    assert found.health is not None
    assert found.health.argv == ("/opt/a,b",)


@pytest.mark.parametrize("name", ["web1.example.com", "web1", "web-1.lan."])
def test_the_name_of_a_host(name: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        read(backends=[name])
    assert "have the controller look it up" in str(caught.value)


def test_what_was_written_is_read_without_a_check() -> None:
    """Of a declaration that was kept, in which other versions may have taken more."""
    written = ["10.0.0.3:80", {"address": "10.0.0.4", "port": 81, "state": "drain"}, 5, {}, "[::1", "10.0.0.5:x", None]
    assert list(backends_as_given(written)) == [
        {"address": "10.0.0.3", "port": 80},
        {"address": "10.0.0.4", "port": 81, "state": "drain"},
        {"address": "10.0.0.5", "port": None},
    ]
    assert [item["address"] for item in backends_as_given("10.0.0.3, 10.0.0.4")] == ["10.0.0.3", "10.0.0.4"]
    assert list(backends_as_given(None)) == []
