# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page about a fleet: what it says and where, and that nobody who types a name or a reason can change it.

tests/browser looks at it in a browser.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import example_fleet
import generated
import pytest
from ansible_collections.natlb.netfilter.plugins.plugin_utils import report_page, report_timeline, report_view
from ansible_collections.natlb.netfilter.plugins.plugin_utils.report_picture import MOST_SERVICES

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)
#: Without an end tag.
VOID = {"meta", "input", "rect", "path"}


class Page(HTMLParser):
    """The elements of a page, and its text by section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {}
        self.ids: Counter[str] = Counter()
        self._section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        self.ids.update([found["id"]] if "id" in found else [])
        if tag == "section":
            self._section = found["aria-labelledby"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"
        if tag == "p":
            self.sections[self._section] += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.sections[self._section] = self.sections.get(self._section, "") + data

    def said(self, section: str) -> str:
        return " ".join(self.sections[section].split())


def made(hosts: dict[str, Any]) -> Page:
    return Page(report_page.page(hosts, NOW))


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    text = report_page.page(example_fleet.broken(), NOW)
    page = Page(text)
    assert page.open == []
    assert [name for name, count in page.ids.items() if count > 1] == []
    tags = {tag for tag, _attributes in page.elements}
    assert tags & {"link", "img", "iframe", "object", "embed", "base", "form"} == set()
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "style", "action"} & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
    for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "http://", "https://"):
        assert word not in text, word


def test_what_is_down_since_when_and_why_stands_first() -> None:
    page = made(example_fleet.broken())
    assert list(page.sections)[1:3] == ["problems", "topology"]
    said = page.said("problems")
    for words in (
        "web2 of web is down since 2026-11-26T01:12:07Z (for 1h47m) connect to 10.0.0.4:8080: Connection refused on",
        "api (service) has no backend that serves: no client gets through since 2026-11-26T02:41:00Z (for 19m)",
        "Connection refused on lb1, lb2; went down 3 times in 24 h",
        "lb4 could not be read",
        "mx2 of mail is drained since 2026-11-25T22:00:00Z (for 5h) kernel update, ask Kim on lb1, lb2; natlb restore",
        "lb2 differs from its last declaration",
    ):
        assert words in said, said
    places = [said.index(words) for words in ("api (service)", "web2 of web", "mx2 of mail")]
    assert places == sorted(places), "the worst first"


def test_what_was_found_over_the_day_stands_with_the_backend() -> None:
    said = made(example_fleet.broken()).said("services")
    for words in (
        "History: down for 2h25m of the last 24 h, went down 3 times",
        "2026-11-26T01:12:07Z down for 1h47m until now: connect to 10.0.0.4:8080: Connection refused",
        "2026-11-26T00:55:31Z up for 16m36s: it accepts connections, 2 of 2",
    ):
        assert words in said, said
    assert said.index("01:12:07Z down for") < said.index("00:55:31Z up for"), "the last first"


def test_what_happened_lately_is_told_once_and_the_last_first() -> None:
    said = made(example_fleet.broken()).said("happened")
    for words in (
        "2026-11-26T02:41:00Z (19m ago) api2 of api ✕ down: http 10.0.1.3:9000/ready: status 503",
        "2026-11-26T00:55:31Z (2h4m ago) web2 of web up: it accepts connections, 2 of 2",
    ):
        assert said.count(words) == 1, said
    assert said.index("api2") < said.index("api1") < said.index("web2")
    assert "web1" not in said
    late = datetime(2026, 12, 26, tzinfo=UTC)
    assert "no change" in Page(report_page.page(example_fleet.broken(), late)).said("happened")
    dead = example_fleet.down("connect to 10.0.0.3:8080: Connection refused")
    many = [
        example_fleet.service(f"s{n}", f"192.0.2.1:{n}", [example_fleet.backend("web1", "10.0.0.3", **dead)])
        for n in range(1, 31)
    ]
    other = [
        example_fleet.backend(f"b{n}", f"10.1.0.{n}", **example_fleet.down("gone", f"2026-11-26T02:00:{n:02}Z"))
        for n in range(1, 31)
    ]
    said = made({"lb1": example_fleet.info([*many, example_fleet.service("web", "192.0.2.2:80", other)])}).said(
        "happened"
    )
    assert "b30 of web" in said
    assert "and 19 more" in said, "30 backends, and one that 30 services share"


def test_balancers_that_saw_other_things_are_still_together() -> None:
    fleet = example_fleet.broken()
    other = fleet["lb2"]["services"][0]["backends"][1]
    other["health_history"] = other["health_history"][2:]
    (web2,) = [item for item in report_view.view(fleet).services[0].backends if item.name == "web2"]
    assert web2.hosts == ("lb1", "lb2")
    assert len(web2.history) == 5, "of the one that knows most"
    del fleet["lb1"]["services"][0]["backends"][1]["health_history"]
    assert "web2" in made(fleet).said("problems"), "a balancer with an older natlb"


def hours(*times: int) -> list[report_timeline.Change]:
    """Down and up by turns, so many hours before now."""
    return [
        report_timeline.Change(("down", "up")[at % 2], (NOW - timedelta(hours=time)).isoformat(), "")
        for at, time in enumerate(times)
    ]


@pytest.mark.parametrize(
    ("history", "falls", "says", "parts"),
    [
        ([], 0, "", []),
        (hours(6), 1, "down for 6h of the last 24 h<", [("down", 180, 60)]),
        (hours(6, 3), 1, "down for 3h of", [("up", 210, 30), ("down", 180, 30)]),
        (
            *(hours(9, 8, 2), 2, "down for 3h of the last 24 h, went down 2 times"),
            [("up", 160, 60), ("down", 150, 10), ("down", 220, 20)],
        ),
        # It began before the strip does.
        (hours(36, 12), 0, "down for 12h of the last 24 h<", [("up", 120, 120), ("down", 0, 120)]),
        (hours(72, 48), 0, "last change 2d ago", [("up", 0, 240)]),
        # What no balancer would tell.
        ([report_timeline.Change("down", "tomorrow", ""), *hours(1)], 1, "down for 1h of", [("down", 230, 10)]),
        (hours(-2), 1, "", []),
    ],
)
def test_strips(history: list[Any], falls: int, says: str, parts: list[tuple[str, float, float]]) -> None:
    made = str(report_timeline.timeline(history, NOW))
    assert says in made
    drawn = re.findall(r'<rect class="(up|down|drain)" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', made)
    assert [(state, float(x), float(width)) for state, x, width in drawn] == parts
    assert not history or report_timeline.falls(history, NOW) == (falls if parts else 0)


def test_a_short_failure_is_seen_on_a_strip() -> None:
    short = [*hours(6), report_timeline.Change("up", (NOW - timedelta(hours=6, seconds=-2)).isoformat(), "")]
    widths = re.findall(r'"down" x="[\d.]+" y="0.0" width="([\d.]+)"', str(report_timeline.timeline(short, NOW)))
    assert widths == ["2.0"]


def test_a_healthy_fleet_has_no_problems() -> None:
    hosts = example_fleet.large(3)
    hosts["lb1"]["services"][1]["backends"][1] = hosts["lb1"]["services"][0]["backends"][0]
    fine = {"lb1": example_fleet.info([hosts["lb1"]["services"][0]])}
    page = made(fine)
    assert "All backends of all services serve" in page.said("problems")
    assert "Nothing:" in page.said("differences")
    assert "There are no warnings" in page.said("warnings")
    assert "no backend down" in page.said("")


def test_shares_are_of_what_the_balancers_got() -> None:
    view = report_view.view(example_fleet.broken())
    web = view.services[0]
    real = {(item.name, item.hosts): item.real for item in web.backends}
    assert real["web1", ("lb1",)] == 30412 / (30412 + 811 + 10099)
    assert real["web2", ("lb1", "lb2")] == (811 + 790) / (30412 + 811 + 10099 + 9120 + 790 + 9087)
    assert [item.real for item in view.services[1].backends] == [None, None], "nobody got anything"
    text = made(example_fleet.broken()).said("services")
    assert "75.0 %" in text
    assert "73.6 %" in text


@pytest.mark.parametrize(
    ("count", "of", "share", "far"),
    [
        (30, 99, 0.5, False),
        (20, 100, 0.5, True),
        (30, 100, 0.5, False),
        # Five standard deviations are 250 of 10,000, a tenth is 500, and both have to be passed.
        (4600, 10_000, 0.5, False),
        (4400, 10_000, 0.5, True),
        (5600, 10_000, 0.5, True),
        (0, 1000, 0.009, False),
        (0, 10_000, 0.009, True),
        (5, 10_000, 0.0, False),
        (10_000, 10_000, 1.0, False),
    ],
)
def test_what_is_more_than_chance(count: int, of: int, share: float, far: bool) -> None:
    assert report_view.is_far(count, of, share) is far


@pytest.mark.parametrize(
    ("more", "one", "told"),
    [
        ({}, {}, True),
        ({"method": "source_hash"}, {}, False),
        ({"affinity": 60}, {}, False),
        ({}, {"health_history": example_fleet.past(("up", "2026-11-26T01:00:00Z", ""))}, False),
        ({}, example_fleet.drained("", "kernel update"), False),
    ],
)
def test_a_share_that_is_not_chance_is_told(more: dict[str, Any], one: dict[str, Any], told: bool) -> None:
    """Not where clients stay with a backend, nor where something has changed since the rules were loaded."""
    backends = [
        example_fleet.backend("a", "10.0.0.3", share=0.5, new_connections=900, **one),
        example_fleet.backend("b", "10.0.0.4", share=0.5, new_connections=100),
    ]
    hosts = {"lb1": example_fleet.info([example_fleet.service("web", "192.0.2.1:80", backends, **more)])}
    assert made(hosts).said("services").count("more than chance") == (2 if told else 0)


def test_shares_are_of_a_family() -> None:
    four = [example_fleet.backend(f"a{n}", f"10.0.0.{n}", share=0.5, new_connections=10) for n in (1, 2)]
    six = [example_fleet.backend("b", "2001:db8::1", share=1.0, new_connections=500)]
    view = report_view.view({"lb1": example_fleet.info([example_fleet.service("web", "[::]:80", [*four, *six])])})
    assert [item.real for item in view.services[0].backends] == [0.5, 0.5, 1.0]


def test_each_column_has_its_own_heading() -> None:
    text = report_page.page(example_fleet.broken(), NOW)
    tables = re.findall("<table>(.*?)</table>", text)
    assert len(tables) == 5
    for table in tables:
        head = re.findall('<th scope="col"[^>]*>([^<]*)<', table)
        for row in re.findall("<tr>(.*?)</tr>", table)[1:]:
            assert re.findall('data-label="([^"]*)"', row) == head


def test_what_differs_is_told() -> None:
    said = made(example_fleet.broken()).said("differences")
    assert "web1 of web up, weight 3, expected share 75.0 % on lb1" in said
    assert "web1 of web up, weight 1, expected share 50.0 % on lb2" in said
    assert "mx1" not in said
    one, other = (
        example_fleet.info([example_fleet.service("web", f"192.0.2.{n}:80", [example_fleet.backend("a", "10.0.0.3")])])
        for n in (1, 2)
    )
    assert "web (service) of 1 backend at 192.0.2.2:80, round_robin on lb2" in made({"lb1": one, "lb2": other}).said(
        "differences"
    )


def test_a_dead_host_of_many_services_is_one_problem() -> None:
    dead = example_fleet.down("connect to 10.0.0.3:8080: Connection refused")
    services = [
        example_fleet.service(
            f"s{n}",
            f"192.0.2.1:{n}",
            [example_fleet.backend("web1", "10.0.0.3", **dead), example_fleet.backend("web2", "10.0.0.4", share=1.0)],
        )
        for n in range(1, 31)
    ]
    page = made({"lb1": example_fleet.info(services)})
    assert page.said("problems").count("web1 of") == 1
    assert "and 22 more services is down since" in page.said("problems")


def test_the_picture_tells_down_without_colours() -> None:
    text = report_page.page(example_fleet.broken(), NOW)
    svg = text[text.index('<svg role="img"') : text.index("</svg>")]
    assert "✕ down" in svg
    assert "✕ not read" in svg
    assert "! drained" in svg
    assert svg.count('class="cross"') >= 4
    assert "api on lb1, lb2: no backend serves" in svg
    large = report_page.page(example_fleet.large(), NOW)
    svg = large[large.index('<svg role="img"') : large.index("</svg>")]
    assert f"{MOST_SERVICES} of 1000 services" in large
    assert "service-500" in svg, "what is down is never left out"


BREAKOUTS = [
    '"><script>alert(1)</script>',
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "<!--",
    "]]><svg onload=alert(1)>",
    "{{ lookup('pipe', 'id') }}",
    "{0.__class__} {name} %s",
    "\u202egnp.\u2028\x00\x1b[31m",
    "javascript:alert(1)",
    "&lt;script&gt;",
]


def texts(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there are texts within."""
    if isinstance(value, str):
        yield at
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from texts(item, (*at, key))


@pytest.mark.parametrize("text", BREAKOUTS)
def test_nobody_breaks_out(text: str) -> None:
    """Every text of the fleet is this one, and names of hosts too: the page has the elements that it has otherwise."""
    fleet = example_fleet.broken()
    for at in list(texts(fleet)):
        *way, last = at
        if last in ("health", "state", "address"):
            continue
        place: Any = fleet
        for key in way:
            place = place[key]
        place[last] = text
    page = made({f"{text}{name}": info for name, info in fleet.items()})
    assert page.open == []
    expected = made(example_fleet.broken())
    allowed = {(tag, frozenset(attributes)) for tag, attributes in expected.elements}
    extra = {("time", frozenset({"datetime"})), ("svg", frozenset()), ("p", frozenset())}
    assert {(tag, frozenset(attributes)) for tag, attributes in page.elements} <= allowed | extra
    assert sum(tag == "script" for tag, _attributes in page.elements) == 1
    for tag, attributes in page.elements:
        assert attributes.get("href", "#").startswith("#"), tag
    if "<" in text:
        assert text in "".join(page.sections.values()), "it is shown as it was typed"


def test_an_unknown_fleet_has_a_page() -> None:
    for hosts in ({}, {"lb1": None}, {"lb1": {}}, {"lb1": example_fleet.info([])}):
        assert made(hosts).open == []
    empty = example_fleet.info([example_fleet.service("web", "192.0.2.1:80", [])])
    assert "It has no backends" in made({"lb1": empty}).said("services")


def test_a_thousand_services_take_little_time() -> None:
    fleet = example_fleet.large()
    began = time.process_time()
    text = report_page.page(fleet, NOW)
    spent = time.process_time() - began
    print(f"1,000 services on 2 balancers: {len(text) / 1e6:.1f} MB in {spent:.2f} s of processor time")
    assert spent < 2


@pytest.mark.parametrize(
    ("name", "fleet"),
    [("report-example.html", example_fleet.broken()), ("report-healthy.html", example_fleet.healthy())],
    ids=["broken", "healthy"],
)
def test_the_examples_in_docs_are_the_pages_that_are_made(name: str, fleet: dict[str, Any]) -> None:
    generated.check(ROOT / "docs" / name, report_page.page(fleet, NOW))
