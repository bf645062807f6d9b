# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `natlb watch` tells and shows: news, the screen, rates, and the counters that they come from."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from _natlb.host.commits import committers
from _natlb.host.netlink import attribute
from _natlb.model.effective import Finding, Override, Place
from _natlb.model.entities import Config
from _natlb.model.services import parse_config
from _natlb.nftables.counters import count_slots
from _natlb.status import news, watch_view
from _natlb.status.activity import Key, Reading
from _natlb.status.news import News
from _natlb.status.watch_view import View


def declared(count: int = 1, backends: int = 2) -> Config:
    return parse_config(
        [
            {
                "name": f"web{number}",
                "listen": f"192.0.2.{number}:80",
                "health": {"type": "tcp"},
                "backends": [
                    {"name": f"b{one}", "address": f"10.0.{number}.{one}", "port": 8080}
                    for one in range(1, backends + 1)
                ],
            }
            for number in range(1, count + 1)
        ],
        [],
    )


CONFIG = declared()
PLACE = Place("web1", "10.0.1.1", 8080)
NAMES = news.names_of(CONFIG)
KEYS: list[Key] = [("web1", backend.key) for backend in CONFIG.services[0].backends]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, Override("drained", reason="update"), "b1 of web1: drained (update)"),
        (None, Override(weight=3), "b1 of web1: weight 3"),
        (Override("drained"), Override("disabled", 2), "b1 of web1: disabled, weight 2"),
        (Override("drained"), None, "b1 of web1: as declared again"),
        (Override("drained", since="then"), Override("drained", since="now"), None),
    ],
)
def test_overrides(before: Override | None, after: Override | None, message: str | None) -> None:
    then, now = ({} if item is None else {PLACE: item} for item in (before, after))
    told = list(news.of_overrides(then, now, NAMES))
    assert [item.message for item in told] == ([] if message is None else [message])
    assert all(
        (item.kind, item.fields["service"], item.fields["backend"]) == ("override", "web1", "b1") for item in told
    )


def test_what_is_not_declared_any_more_has_no_name() -> None:
    (told,) = news.of_overrides({}, {Place(None, "10.0.0.9", None): Override("drained")}, NAMES)
    assert told.message == "10.0.0.9 of every service: drained"


def test_health() -> None:
    down = Finding("down", "then", "refused")
    assert [item.message for item in news.of_findings({}, {PLACE: down}, NAMES, ())] == ["b1 of web1 is down: refused"]
    assert list(news.of_findings({PLACE: down}, {PLACE: replace(down, since="now")}, NAMES, ())) == []
    (told,) = news.of_findings({PLACE: down}, {PLACE: Finding("up")}, NAMES, ())
    assert (told.message, told.fields["state"]) == ("b1 of web1 is up", "up")


def test_declarations() -> None:
    (one, two), three = declared(2).services, declared(3, 3).services[2]
    less = replace(one, backends=one.backends[:1])
    (told,) = news.of_declarations(Config((one, two), ()), Config((less, three), ()))
    assert told.message == "a run has declared otherwise: added: web3; removed: web2; changed: web1"
    assert list(news.of_declarations(CONFIG, CONFIG)) == []


@pytest.mark.parametrize(
    ("event", "kind", "fields"),
    [
        (
            {"message": "b1 of web1 is down", "NATLB_SERVICE": "web1", "NATLB_BACKEND": "b1", "NATLB_STATE": "down"},
            "health",
            {"service": "web1", "backend": "b1", "state": "down"},
        ),
        ({"message": "rules is below min_healthy: 1", "NATLB_SERVICE": "rules"}, "health", {"service": "rules"}),
        ({"message": "nft (process 7) has changed rules"}, "rules", {}),
        ({"message": "1 services, 1 of them with health checks"}, "agent", {}),
        ({}, "agent", {}),
    ],
)
def test_what_the_agent_tells(event: dict[str, Any], kind: str, fields: dict[str, Any]) -> None:
    assert news.of_agent(event) == News(kind, event.get("message", ""), fields)


@pytest.mark.parametrize(("said", "concerns"), [("web", True), ("api, web", True), ("api", False), (None, True)])
def test_news_of_one_service(said: str | None, concerns: bool) -> None:
    assert watch_view.concerns(News("health", "", {"service": said}), ["web"]) == concerns


def test_rates() -> None:
    one, two = KEYS
    before, after = Reading(10.0, {one: 5, two: 9}, {}), Reading(12.0, {one: 8, two: 4}, {})
    assert after.rates(before) == {one: 1.5, two: 2.0}, "counters that were set back began at 0"


def view(config: Config = CONFIG, **more: Any) -> View:
    keys = [(service.name, backend.key) for service in config.services for backend in service.backends]
    rates = {key: float(number) for number, key in enumerate(keys)}
    return View(config, {}, {}, Reading(1.0, dict.fromkeys(keys, 7), dict.fromkeys(keys, 2)), rates)._replace(**more)


def test_a_wide_screen() -> None:
    lines = watch_view.screen("head", view(findings={PLACE: Finding("down")}), ["12:00:00 news"], 80, 24)
    assert lines == [
        "head",
        "SERVICE  BACKEND  ADDRESS        STATE   HEALTH  NEW/S  ACTIVE",
        "web1     b1       10.0.1.1:8080  active  down      0.0       2",
        "web1     b2       10.0.1.2:8080  active            1.0       2",
        "",
        "12:00:00 news",
    ]


@pytest.mark.parametrize(("width", "height"), [(30, 12), (44, 20), (79, 24), (200, 60), (10, 5)])
def test_every_screen_fits(width: int, height: int) -> None:
    said = [f"12:00:00 b1 of web{number} is down: connect to 10.0.1.1:8080: Connection refused" for number in range(90)]
    lines = watch_view.screen("a head of many words, which is long", view(declared(20, 4)), said, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= max(width, 20)


def test_of_many_backends_those_that_need_a_look_come_first() -> None:
    config = declared(20, 4)
    bad = Place("web7", "10.0.7.3", 8080)
    lines = watch_view.screen("head", view(config, findings={bad: Finding("down")}), [], 100, 10)
    assert lines[2].split()[:5] == ["web7", "b3", "10.0.7.3:8080", "active", "down"]
    assert [line.split()[:2] for line in lines[3:5]] == [["web20", "b4"], ["web20", "b3"]], "then the busy ones"
    assert any(line.startswith("… and 7") for line in lines)


def test_before_there_are_rates_there_are_no_numbers() -> None:
    lines = watch_view.screen("head", view(rates=None), [], 80, 24)
    assert lines[2].split()[-2:] == ["-", "2"]
    assert watch_view.screen("head", View(Config((), ()), {}, {}), [], 80, 24)[1] == "no backends"


def test_counters_of_services_with_activity_alone() -> None:
    config = declared(2)
    now = view(config, rates={})
    assert now.reading is not None
    assert watch_view.counters(now, None) == []
    assert watch_view.counters(now, now.reading) == []
    quiet = now.reading._replace(active={})
    first, _second = watch_view.counters(now, quiet)
    assert first.message == "web1: 0.0 new/s, 4 active (b1 0.0/s 2, b2 0.0/s 2)"
    (told,) = watch_view.counters(now._replace(rates={KEYS[1]: 2.5}), now.reading)
    assert told.fields["backends"][1] == {"name": "b2", "new_per_second": 2.5, "active": 2}


# -- what the kernel tells -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("six", [False, True], ids=["ip", "ip6"])
def test_slots_are_counted_by_backend(six: bool) -> None:
    net, vip = ("2001:db8::", "[2001:db8::a]:80") if six else ("10.0.0.", "192.0.2.10:80")
    backends = [{"address": f"{net}3", "port": 8080}, {"address": f"{net}4"}]
    config = parse_config([{"name": "web", "listen": vip, "protocol": ["tcp", "udp"], "backends": backends}], [])
    (web,) = config.services
    address = bytes.fromhex("20010db8" + "00" * 11 + "0a") if six else bytes([192, 0, 2, 10])
    base = bytes.fromhex("20010db8" + "00" * 11) if six else bytes([10, 0, 0])

    def slot(number: int, last: int, port: int, packets: int, to: bytes = address) -> tuple[bytes, bytes, int]:
        key = to + struct.pack(">HxxI", 80, number)
        return key, base + bytes([last]) + struct.pack(">Hxx", port), packets

    slots = [
        ("tcp", *slot(0, 3, 8080, 5)),
        ("tcp", *slot(1, 4, 80, 4)),
        ("udp", *slot(0, 3, 8080, 2)),
        ("tcp", *slot(2, 4, 81, 100)),
        ("tcp", *slot(3, 9, 80, 100)),
        ("sctp", *slot(0, 3, 8080, 100)),
        ("tcp", *slot(0, 3, 8080, 100, bytes(len(address)))),
        ("tcp", b"", b"", 100),
    ]
    one, two = (("web", backend.key) for backend in web.backends)
    assert count_slots(config, slots) == {one: 7, two: 4}


def test_who_has_committed() -> None:
    def message(kind: int, body: bytes) -> bytes:
        return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body

    who = attribute(1, struct.pack(">I", 5)) + attribute(2, struct.pack(">I", 4711)) + attribute(3, b"nft\0")
    news_of_commit = message(10 << 8 | 15, bytes(4) + who)
    assert list(committers(message(10 << 8 | 12, bytes(40)) + news_of_commit)) == ["nft (process 4711)"]
    assert list(committers(news_of_commit[:-30])) == []
    assert list(committers(message(10 << 8 | 15, bytes(4) + attribute(1, bytes(4))))) == [], "before Linux 4.13"
