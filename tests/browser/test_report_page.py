# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The page about a fleet in a real browser: three widths, by day and night, printed, by keyboard, without scripts."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import chromium
import example_fleet
import generated
import pytest
from ansible_collections.natlb.netfilter.plugins.plugin_utils import report_page
from chromium import Browser

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)
WIDTHS = {"phone": 360, "tablet": 800, "desktop": 1280}
LOOKS = [(width, scheme) for width in WIDTHS.values() for scheme in ("light", "dark")]
#: Of the screenshot in docs.
SCREEN = (1000, 1180)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    fleets = {"broken": example_fleet.broken(), "large": example_fleet.large()}
    long = example_fleet.broken()
    for service in long["lb1"]["services"]:
        service["name"] += "-" + "x" * 50
        for backend in service["backends"]:
            backend["name"] = "y" * 63
            backend["address"] = "2001:db8:1111:2222:3333:4444:5555:6666"
    fleets["long"] = long
    fleets["healthy"] = example_fleet.healthy()
    for name, fleet in fleets.items():
        (folder / f"{name}.html").write_text(report_page.page(fleet, NOW))
    return {name: folder / f"{name}.html" for name in fleets}


def violations(browser: Browser) -> list[str]:
    """What axe-core finds wrong with the page as it is shown now."""
    browser.value(f"{chromium.axe()}; 0")
    found = json.loads(browser.value("axe.run(document).then(found => JSON.stringify(found.violations))"))
    return [f"{item['id']}: {item['help']}: {[node['html'][:120] for node in item['nodes']][:3]}" for item in found]


@pytest.mark.parametrize("name", ["broken", "healthy", "long"])
@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_everybody_can_read_it(browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    browser.look(width, scheme=scheme)
    browser.open(pages[name])
    assert browser.value("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    assert violations(browser) == []
    assert browser.complaints == []
    assert browser.requests == [pages[name].as_uri()], "it loads nothing"


def test_the_checker_would_find_something(browser: Browser, pages: dict[str, Path]) -> None:
    """Broken once, so that 0 violations says something."""
    text = pages["broken"].read_text()
    worse = pages["broken"].with_name("worse.html")
    worse.write_text(text.replace('<label for="search">', "<label>").replace("Content-Security-Policy", "x", 1))
    browser.open(worse)
    browser.value("document.querySelector('.soft').style.color = '#ccc'")
    found = " ".join(violations(browser))
    assert "color-contrast" in found
    browser.value("document.getElementById('search').parentElement.replaceWith(document.getElementById('search'))")
    assert "label:" in " ".join(violations(browser))


def test_night_is_dark_and_paper_is_white(browser: Browser, pages: dict[str, Path]) -> None:
    def background() -> int:
        return int(browser.value("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"))

    browser.open(pages["broken"])
    assert background() == 255
    browser.look(1280, scheme="dark")
    assert background() < 50
    browser.look(1280, scheme="dark", media="print")
    assert background() == 255
    assert violations(browser) == []


def test_what_is_down_is_on_the_first_screen(browser: Browser, pages: dict[str, Path]) -> None:
    """Nobody has to scroll, on a phone either."""
    browser.look(WIDTHS["phone"], 740)
    browser.open(pages["broken"])
    where = "[...document.querySelectorAll('.problems li')].find(e => e.textContent.includes('web2'))"
    assert browser.value(f"{where}.getBoundingClientRect().bottom") < 740
    said = " ".join(browser.value(f"{where}.innerText").split())
    assert said.startswith("✕ web2 of web is down since 2026-11-26T01:12:07Z (for 1h47m) connect to 10.0.0.4:8080")


SHOWN = "[...document.querySelectorAll('.service')].filter(e => !e.hidden).map(e => e.id).join()"


def test_by_keyboard_alone(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["broken"])
    browser.tab_to(lambda focus: focus.startswith("a#") and "Skip" in focus, most=1)
    browser.tab_to(lambda focus: focus == "a# web")
    browser.press("Enter")
    browser.until("document.activeElement.localName === 'summary'")
    assert "web" in browser.value("document.activeElement.textContent")
    browser.press("Enter")
    assert browser.value("document.activeElement.parentElement.open") is False
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert browser.value(outline) == "solid", "one sees where one is"
    browser.open(pages["broken"])
    browser.tab_to(lambda focus: focus.startswith("input#search"))
    browser.type("10.0.1.2")
    assert browser.value(SHOWN) == "service-1"
    assert browser.value("document.getElementById('count').textContent") == "1 of 4 services shown"
    browser.press("Escape")
    assert browser.value(SHOWN).count(",") == 3
    browser.press("Tab")
    browser.press("ArrowDown")
    assert browser.value(SHOWN) == "service-0,service-1,service-2"
    browser.tab_to(lambda focus: focus.startswith("button#close"))
    browser.press("Enter")
    assert browser.value("document.querySelectorAll('.service[open]').length") == 1, "what is hidden stays as it is"
    browser.press("Tab")
    browser.tab_to(lambda focus: "Picture" in focus or focus.startswith("summary#"))


def test_a_thousand_services_can_be_searched(browser: Browser, pages: dict[str, Path]) -> None:
    began = time.monotonic()
    browser.open(pages["large"])
    loaded = time.monotonic() - began
    took = browser.value(
        "(s => {const t = performance.now(); s.value = 'service-777 node2'; s.dispatchEvent(new Event('input'));"
        " document.body.offsetHeight; return performance.now() - t})(document.getElementById('search'))"
    )
    assert browser.value(SHOWN) == "service-777"
    print(f"1,000 services: shown after {loaded:.1f} s, searched in {took:.0f} ms")
    assert took < 2000
    browser.value("(f => {f.value = 'down'; f.dispatchEvent(new Event('change'))})(document.getElementById('filter'))")
    browser.value("(s => {s.value = ''; s.dispatchEvent(new Event('input'))})(document.getElementById('search'))")
    assert browser.value(SHOWN) == "service-500"


def test_without_scripts_all_can_be_read(browser: Browser, pages: dict[str, Path]) -> None:
    browser.scripts(allowed=False)
    browser.open(pages["broken"])
    assert browser.value("document.getElementById('controls').hidden") is True
    said = browser.value("document.body.innerText")
    for words in ("Connection refused", "http 10.0.1.3:9000/ready: status 503", "kernel update, ask Kim", "ns2"):
        assert words in said


def test_paper_has_what_is_closed_too(browser: Browser, pages: dict[str, Path]) -> None:
    browser.scripts(allowed=False)
    browser.look(800, media="print")
    browser.open(pages["large"])
    row = "document.querySelector('#service-999 tbody tr').checkVisibility({contentVisibilityAuto: false})"
    browser.until("document.getElementById('service-999').open === false")
    assert browser.value(row) is True
    assert browser.value("document.querySelector('#service-999 table').getBoundingClientRect().height") > 50


def test_nothing_that_was_typed_runs(browser: Browser, tmp_path: Path) -> None:
    fleet = example_fleet.broken()
    for text in ('"><script>alert(1)</script>', "</script><img src=x onerror=alert(2)>"):
        fleet["lb1"]["services"][0]["backends"][1]["name"] = text
        fleet["lb1"]["services"][0]["backends"][1]["why"] = text
        fleet["lb1"]["services"][0]["backends"][1]["health_reason"] = text
        fleet["lb1"]["services"][0]["name"] = text
        path = tmp_path / "broken-out.html"
        path.write_text(report_page.page(fleet, NOW))
        browser.open(path)
        assert browser.complaints == []
        assert browser.requests == [path.as_uri()]
        assert text in browser.value("document.getElementById('problems').parentElement.textContent")


def test_the_page_would_not_let_a_script_run(browser: Browser, pages: dict[str, Path]) -> None:
    """If something were not escaped, the policy of the page stands behind."""
    path = pages["broken"].with_name("foreign-script.html")
    path.write_text(pages["broken"].read_text().replace("</main>", "<script>document.title='out'</script></main>"))
    browser.open(path)
    assert browser.value("document.title") != "out"
    assert any("Content Security Policy" in complaint for complaint in browser.complaints)


def test_the_screenshot_in_docs(browser: Browser) -> None:
    """It is made again with NATLB_WRITE_DOCS=1. Fonts differ between machines, so what it is made of is compared: that
    is docs/report-example.html, which tests/unit/controller/test_report.py compares with what is made now."""
    path = ROOT / "docs" / "images" / "report.png"
    browser.look(SCREEN[0], SCREEN[1])
    browser.open(ROOT / "docs" / "report-example.html")
    made = browser.picture(*SCREEN)
    if os.environ.get(generated.WRITE):
        path.write_bytes(made)
    kept = path.read_bytes()
    size = int.from_bytes(kept[16:20], "big"), int.from_bytes(kept[20:24], "big")
    assert size == SCREEN
    assert len(kept) < 300_000, "small"
