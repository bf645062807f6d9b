# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dashboard: what is shipped is what the generator makes, its types hold, and its queries answer."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from promtool import promtool

ROOT = Path(__file__).parents[2]
for folder in (ROOT / "tools", Path(__file__).parent):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import dashboard  # noqa: E402
from told_metrics import series  # noqa: E402

SHIPPED = json.loads(dashboard.WRITTEN.read_text())
PANELS = [panel for panel in SHIPPED["panels"] if panel["type"] != "row"]
QUERIES = [
    pytest.param(target["expr"], id=f"{panel['title']}-{target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]
#: What Grafana puts in for the variables.
CHOSEN = {"$instance": "lb1", "$service": ".*", "$__rate_interval": "5m"}
VARIABLES = {variable["name"] for variable in SHIPPED["templating"]["list"]}


def as_sent(expression: str) -> str:
    for variable, value in CHOSEN.items():
        expression = expression.replace(variable, value)
    return expression


def test_it_is_the_one_that_is_made() -> None:
    assert dashboard.WRITTEN.read_text() == dashboard.text(), "tools/run python tools/dashboard.py writes it anew"


def test_it_is_what_grafana_reads() -> None:
    """Read by the types of Grafana and written again, nothing is lost."""
    register_default_plugins()
    again = json.loads(json.dumps(Dashboard.from_json(SHIPPED), cls=JSONEncoder))
    assert again == SHIPPED


def test_panels_lie_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in SHIPPED["panels"]:
        place = panel["gridPos"]
        fields = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & fields, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= fields


def test_numbers_and_titles_are_unique() -> None:
    for key in ("id", "title"):
        found = [panel[key] for panel in SHIPPED["panels"]]
        assert len(found) == len(set(found)), key
    for panel in PANELS:
        names = [target["refId"] for target in panel["targets"]]
        assert len(names) == len(set(names)), panel["title"]


def test_every_variable_is_there_and_used() -> None:
    assert {"datasource", "instance", "service"} == VARIABLES
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(PANELS)))
    assert used == VARIABLES
    assert {panel["datasource"]["uid"] for panel in PANELS} == {"${datasource}"}
    for query in (target for panel in PANELS for target in panel["targets"]):
        assert "$instance" in query["expr"], query


def test_columns_of_tables_are_fields_of_their_queries() -> None:
    tables = [panel for panel in PANELS if panel["type"] == "table"]
    assert len(tables) == 2
    for panel in tables:
        by_id = {item["id"]: item["options"] for item in panel["transformations"]}
        assert list(by_id) == ["merge", "filterFieldsByName", "organize"]
        labels = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", str(panel["targets"])))))
        fields = labels | {f"Value #{target['refId']}" for target in panel["targets"]}
        assert set(by_id["filterFieldsByName"]["include"]["names"]) <= fields
        shown = set(by_id["organize"]["renameByName"].values())
        styled = {item["matcher"]["options"] for item in panel["fieldConfig"]["overrides"]}
        assert styled <= shown


@pytest.mark.parametrize("expression", QUERIES)
def test_prometheus_reads_it(expression: str, tmp_path: Path) -> None:
    rule = {"record": "x", "expr": as_sent(expression)}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": [rule]}]}))
    done = promtool("check", "rules", "rules.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("expression", QUERIES)
def test_it_answers(expression: str, tmp_path: Path) -> None:
    """The bench shows the answer that it did not expect."""
    asked = as_sent(expression).removesuffix(" or vector(0)")
    test = {"expr": asked, "eval_time": "30m", "exp_samples": [{"labels": "x", "value": 1}]}
    given: dict[str, Any] = {"interval": "1m", "input_series": series(), "promql_expr_test": [test]}
    (tmp_path / "bench.yml").write_text(yaml.safe_dump({"tests": [given]}))
    said = promtool("test", "rules", "bench.yml", folder=tmp_path).stdout
    assert "got:" in said.replace(" ", ""), said
    assert "got:nil" not in said.replace(" ", ""), asked
