# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules and dashboard ask for metrics that there are, and the page describes each alert. They run in tests/tools."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FILES = ROOT / "roles" / "monitoring" / "files"
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
GROUPS = yaml.safe_load((FILES / "natlb-rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [pytest.param(rule, id=rule["alert"]) for rule in RULES if "alert" in rule]


def described() -> set[str]:
    rows = re.findall(r"^\| (`natlb_.*?) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(natlb_\w+)`", row)}


@pytest.mark.parametrize("name", ["natlb-rules.yml", "natlb-dashboard.json"])
def test_every_metric_is_there(name: str) -> None:
    named = set(re.findall(r"(?<![\w.])natlb_[a-z0-9_]+", (FILES / name).read_text()))
    variables = {"natlb_conntrack"}
    assert len(named & described()) > 10
    assert named - variables <= described()


def test_every_recorded_series_is_there() -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    used = set(re.findall(r"natlb:[\w:]+", " ".join(rule["expr"] for rule in RULES)))
    assert used <= recorded
    assert "natlb:" not in (FILES / "natlb-dashboard.json").read_text(), "the dashboard does without the rules"


@pytest.mark.parametrize("rule", ALERTS)
def test_an_alert_says_what_to_do(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"].keys() == {"severity", "source"}
    assert rule["labels"]["source"] == "natlb"
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description"}
    assert re.search(r"`[^`]+`", rule["annotations"]["description"]), "a command to type"


@pytest.mark.parametrize("rule", ALERTS)
def test_the_page_describes_it(rule: dict[str, dict[str, str]]) -> None:
    name = str(rule["alert"])
    (row,) = re.findall(rf"^### {name}\n\n(.*)$", PAGE, re.MULTILINE)
    assert f"({rule['labels']['severity']}" in row, row
    assert (f"after {rule['for']}" if "for" in rule else "at once") in row, row


def test_each_alert_leads_to_its_part_of_the_page() -> None:
    """As a comment: the role makes a link of it where the page is published."""
    found = re.findall(
        r"- alert: (\w+)$.*?# runbook_url: docs/monitoring.md#(\w+)$",
        (FILES / "natlb-rules.yml").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert found == [(str(param.id), str(param.id).lower()) for param in ALERTS]


def test_the_page_describes_no_other() -> None:
    assert set(re.findall(r"^### (Natlb\w+)$", PAGE, re.MULTILINE)) == {param.id for param in ALERTS}
