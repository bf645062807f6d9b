# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The `health` of a service: read, kept and read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model.entities import Config, dump
from _natlb.model.health import HEALTH_KEYS, Health, dump_health, health_check, payload
from _natlb.model.reading import meant
from _natlb.model.services import parse_config
from _natlb.plan.request import declared

TARGET = {"port": 8080, "address": "10.0.0.9", "source": "10.0.0.1"}
TIMES = {
    "interval": "5s",
    "fast_interval": "500ms",
    "timeout": "1500ms",
    "fall": 2,
    "rise": 1,
    "jitter": "100ms",
    "slow_start": "30s",
    "fail_open": True,
    "on_down": "reset",
}
HTTP = {"path": "/ready?full=1", "host": "www.example.com", "method": "GET", "status": [200, "300-399"], "body": "ok ✓"}
EACH = [
    {"type": "tcp", **TARGET},
    {"type": "http", **TARGET, **HTTP},
    {"type": "https", **TARGET, **HTTP, "verify": True},
    {"type": "command", "port": 80, "address": "::1", "argv": ["/bin/check", "{address}"], "user": "root"},
    {"type": "agent", **TARGET},
    {"type": "udp", **TARGET, "send": "hex:00ff", "expect": "pong"},
    {"type": "dns", **TARGET, "query": "www.example.com."},
]


def config(health: Any) -> Config:
    return parse_config(
        [{"name": "web", "listen": "192.0.2.10:80", "health": health, "backends": [{"address": "10.0.0.3"}]}]
    )


def read(value: Any) -> Health:
    found = health_check(value, "health")
    assert found is not None
    return found


@pytest.mark.parametrize("given", [{**TIMES, **item} for item in EACH], ids=lambda item: str(item["type"]))
def test_every_key_outlives_being_kept(given: dict[str, Any]) -> None:
    assert set(given) == {"type", *TIMES, *HEALTH_KEYS[given["type"]]}
    health = read(given)
    kept, untouched = dump_health(health), dump_health(Health(given["type"]))
    # A body needs the method that is the default.
    assert [key for key in kept if kept[key] == untouched[key] and key != "method"] == ["type"]
    found = config(given)
    assert found.services[0].health == health
    assert declared(json.loads(json.dumps(dump(found)))) == found


@pytest.mark.parametrize("kind", [kind for kind in HEALTH_KEYS if kind != "none"])
def test_defaults_outlive_being_kept(kind: str) -> None:
    needed = {"command": {"argv": "true"}, "agent": {"port": 1}, "udp": {"send": "x"}, "dns": {"query": "."}}
    found = config({"type": kind, **needed.get(kind, {})})
    assert declared(json.loads(json.dumps(dump(found)))) == found


@pytest.mark.parametrize(
    "argument",
    [
        "{address}:{port}",
        "%{http_code}",
        "${HOST}",
        '{"port": 80}',
        "{print $1}",
        "{{ip}}",
        "{}",
        "{name}",
        "{timeout}",
    ],
)
def test_braces_of_a_program_are_its_own(argument: str) -> None:
    assert read({"type": "command", "argv": ["check", argument]}).argv == ("check", argument)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("{adress}", "address"), ("http://{ip}/", "address"), ("{ address }", "address"), ("-p{Port}", "port")],
)
def test_a_placeholder_that_is_mistyped_would_take_backends_down(typed: str, meant: str) -> None:
    with pytest.raises(ConfigErrors, match=rf"\(write {{{meant}}}; {{address}} and {{port}} are replaced\)"):
        read({"type": "command", "argv": ["check", typed]})


def test_every_type_is_tried() -> None:
    assert {item["type"] for item in EACH} == {*HEALTH_KEYS} - {"none"}


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"interval": 2.5, "fast_interval": "250ms"}, "fast_interval_s", 0.25),
        ({"interval": "1m", "timeout": "1m"}, "timeout_s", 60.0),
        ({"interval": "500ms"}, "timeout_s", 0.5),
        ({"interval": "1m"}, "timeout_s", 1.0),
        ({"jitter": "1s"}, "jitter_s", 1.0),
        ({"type": "http", "status": "200"}, "status", ((200, 200),)),
        ({"type": "http", "status": ["200-299", 401]}, "status", ((200, 299), (401, 401))),
        ({"type": "command", "argv": "true"}, "argv", ("true",)),
        ({"address": "2001:DB8::01"}, "address", "2001:db8::1"),
    ],
)
def test_values_are_normalised(given: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(read({"type": "tcp", **given}), field) == value


def test_a_status_is_written_as_it_was_typed() -> None:
    assert dump_health(read({"type": "http", "status": [204, "200-299"]}))["status"] == [204, "200-299"]


@pytest.mark.parametrize(("text", "expected"), [("ping", b"ping"), ("hex:00FF", b"\0\xff"), ("é", b"\xc3\xa9")])
def test_payloads(text: str, expected: bytes) -> None:
    assert payload(text) == expected


@pytest.mark.parametrize("kind", [{}, {"type": "tpc"}, {"type": ["tcp"]}, {"type": "tcp"}])
def test_all_that_is_wrong_is_told_at_once_whatever_the_type(kind: dict[str, Any]) -> None:
    with pytest.raises(ConfigErrors) as caught:
        health_check({**kind, "interval": [1], "fall": "x", "prot": 3}, "health")
    found = {error.path for error in caught.value.errors}
    assert found == {
        "health.interval",
        "health.fall",
        "health.prot",
        *([] if kind == {"type": "tcp"} else ["health.type"]),
    }


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("alow_from", "did you mean allow_from?"),
        ("Listen", "did you mean listen?"),
        ("zzz", "known keys: allow_from, "),
    ],
)
def test_a_mistyped_key_is_answered_with_the_nearest(key: str, said: str) -> None:
    assert meant(key, ("allow_from", "listen")).startswith(said)
