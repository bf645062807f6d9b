# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page about a fleet: what it says and where, and that nobody who types a name or a reason can change it.

tests/browser looks at it in a browser.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import example_fleet
import generated
import pytest
from ansible_collections.natlb.netfilter.plugins.plugin_utils import report_page, report_view
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
        "lb4 could not be read",
        "mx2 of mail is drained, up since 2026-11-25T22:00:00Z (for 5h) kernel update, ask Kim",
        "lb2 differs from its last declaration",
    ):
        assert words in said, said
    places = [said.index(words) for words in ("api (service)", "web2 of web", "mx2 of mail")]
    assert places == sorted(places), "the worst first"


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


def test_shares_are_of_a_family() -> None:
    four = [example_fleet.backend(f"a{n}", f"10.0.0.{n}", share=0.5, new_connections=10) for n in (1, 2)]
    six = [example_fleet.backend("b", "2001:db8::1", share=1.0, new_connections=500)]
    view = report_view.view({"lb1": example_fleet.info([example_fleet.service("web", "[::]:80", [*four, *six])])})
    assert [item.real for item in view.services[0].backends] == [0.5, 0.5, 1.0]


def test_what_differs_is_told() -> None:
    said = made(example_fleet.broken()).said("differences")
    assert "web1 of web up, weight 3, expected share 75.0 % on lb1" in said
    assert "web1 of web up, weight 1, expected share 50.0 % on lb2" in said
    assert "mx1" not in said
    one, other = (
        example_fleet.info([example_fleet.service("web", f"192.0.2.{n}:80", [example_fleet.backend("a", "10.0.0.3")])])
        for n in (1, 2)
    )
    assert "web (service) of 1 backends at 192.0.2.2:80, round_robin on lb2" in made({"lb1": one, "lb2": other}).said(
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


def test_the_example_in_docs_is_the_page_that_is_made() -> None:
    generated.check(ROOT / "docs" / "report-example.html", report_page.page(example_fleet.broken(), NOW))
