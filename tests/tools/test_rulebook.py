# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The example for Event-Driven Ansible: its schema, what it calls, and what keeps it safe. It is not run here."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import ansiblelint
import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "plugins" / "plugin_utils"))

import variables  # noqa: E402

SCHEMA = json.loads((Path(ansiblelint.__file__).parent / "schemas" / "rulebook.json").read_text())
(RULESET,) = yaml.safe_load((ROOT / "extensions" / "eda" / "rulebooks" / "alerts.yml").read_text())
DRAIN, RESTORE = RULESET["rules"]


def playbook(rule: dict[str, Any]) -> dict[str, Any]:
    (found,) = [action["run_playbook"] for action in rule["actions"] if "run_playbook" in action]
    assert isinstance(found, dict)
    return found


def test_it_has_the_form_of_a_rulebook() -> None:
    jsonschema.validate([RULESET], SCHEMA)
    broken = copy.deepcopy(RULESET)
    broken["rules"][0]["throttle"]["once_within"] = "ten minutes"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([broken], SCHEMA)


@pytest.mark.parametrize(("rule", "name"), [(DRAIN, "drain"), (RESTORE, "restore")])
def test_it_calls_playbooks_with_variables_that_they_know(rule: dict[str, Any], name: str) -> None:
    called = playbook(rule)
    assert called["name"] == f"natlb.netfilter.{name}"
    text = (ROOT / "playbooks" / f"{name}.yml").read_text()
    assert set(called["extra_vars"]) <= variables.PLAYBOOKS
    for variable in called["extra_vars"]:
        assert f"#   {variable} " in text, variable


def test_only_alerts_that_ask_for_it_count() -> None:
    for condition in (DRAIN["condition"], RESTORE["condition"]["all"][1]):
        assert 'event.labels.source == "natlb"' in condition
        assert 'event.labels.natlb_action == "drain"' in condition
    shipped = yaml.safe_load((ROOT / "roles" / "monitoring" / "files" / "natlb-rules.yml").read_text())
    labels = [rule.get("labels", {}) for group in shipped["groups"] for rule in group["rules"]]
    assert not [found for found in labels if "natlb_action" in found]


def test_it_is_slow_and_leaves_backends() -> None:
    assert playbook(DRAIN)["extra_vars"]["natlb_min_active"] >= 2
    assert DRAIN["throttle"] == {"once_within": "10 minutes", "group_by_attributes": ["event.labels.natlb_action"]}
    assert RULESET["execution_strategy"] == "sequential"
    (source,) = RULESET["sources"]
    assert source["eda.builtin.webhook"]["host"] == "127.0.0.1"
    assert source["eda.builtin.webhook"]["token"]
