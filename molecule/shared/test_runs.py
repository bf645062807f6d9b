"""What the runs of a scenario changed and said, as tests/lab/callback_plugins/natlb_record.py wrote it down.

Run by shared/verify.yml where the whole sequence of `molecule test` was run: `molecule converge` by hand has no run in
check mode before it and no second one behind it.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest
import yaml

SCENARIO = pathlib.Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
RECORDS = pathlib.Path(os.environ["NATLB_RECORD_DIR"])
LAB: dict[str, Any] = yaml.safe_load((SCENARIO / "vars.yml").read_text())["lab"]

#: Tasks of a run that changes nothing, by role. The module `balancer` keeps the units as well; a backend that is right
#: is asked one question.
TASKS = {"balancer": 4, "return_path": 5}


def record(name: str) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text())
    return recorded


def diffs(name: str) -> list[dict[str, Any]]:
    """What a run showed as its diff. Changes without any are left out: not all modules of Ansible's have one."""
    changes = [change for change in record(name)["changes"] if change["diff"]]
    # Each host's in the order of its tasks; among hosts the order is that of their answers.
    return sorted(changes, key=lambda change: change["host"])


def test_check_mode_shows_what_the_run_does() -> None:
    announced, done = diffs("converge-check-1"), diffs("converge-run-1")
    assert done, "the first run showed no diff"
    # What needs a folder that a check has not made.
    hidden = LAB.get("not_announced", [])
    assert announced == [change for change in done if change["task"] not in hidden]


def test_the_second_run_changes_nothing() -> None:
    assert record("converge-run-2")["changes"] == []


@pytest.mark.skipif(not LAB.get("removed", False), reason="only after a removal")
def test_the_second_removal_changes_nothing() -> None:
    assert record("side_effect-run-1")["changes"] != []
    assert record("side_effect-run-2")["changes"] == []


@pytest.mark.parametrize("host", ["balancer", *LAB.get("converged_backends", [])])
def test_a_host_that_is_right_costs_few_tasks(host: str) -> None:
    recap = record("converge-run-2")["recap"][host]
    tasks = {"balancer": LAB["tasks"]} if "tasks" in LAB else {}
    assert recap["ok"] == {**TASKS, **tasks}.get(host, TASKS["return_path"])
