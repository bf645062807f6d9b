# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role `monitoring` on this host, with folders of the test's own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from processes import said
from promtool import promtool

ROOT = Path(__file__).parents[2]
FILES = ROOT / "roles" / "monitoring" / "files"
RULES, BOARD = FILES / "natlb-rules.yml", FILES / "natlb-dashboard.json"
#: It says that every unit runs, and writes down what it is asked to do.
SYSTEMCTL = """#!/bin/sh
case "$*" in
    *show*) printf 'LoadState=loaded\\nActiveState=active\\nUnitFileState=enabled\\n' ;;
    *reload*) echo "$*" >> "$(dirname "$0")/asked" ;;
esac
"""


class Watcher:
    """A host of Prometheus and Grafana."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rules, self.boards = folder / "rules", folder / "dashboards"
        self.program = folder / "bin" / "systemctl"
        for made in (self.rules, self.boards, self.program.parent):
            made.mkdir()
        self.program.write_text(SYSTEMCTL)
        self.program.chmod(0o755)
        self.variables: dict[str, Any] = {
            "ansible_python_interpreter": sys.executable,
            "natlb_monitoring_rules_directory": str(self.rules),
            "natlb_monitoring_dashboards_directory": str(self.boards),
        }

    def run(self, *words: str, **variables: Any) -> tuple[int, str]:
        """Exit status and output of a run of the role, with these variables of it beside the folders."""
        given = self.variables | {f"natlb_monitoring_{name}": value for name, value in variables.items()}
        play = {"hosts": "localhost", "gather_facts": False, "roles": [{"role": "natlb.netfilter.monitoring"}]}
        (self.folder / "play.yml").write_text(yaml.safe_dump([play | {"vars": given}]))
        environment = os.environ | {
            "PATH": f"{self.program.parent}:{os.environ['PATH']}",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
        }
        return said(
            ["ansible-playbook", "-i", "localhost,", "-c", "local", "play.yml", *words], self.folder, environment
        )

    def done(self, *words: str, **variables: Any) -> tuple[bool, str]:
        """Whether a run changed something, and what it printed."""
        status, told = self.run(*words, **variables)
        assert status == 0, told
        return "changed=0" not in told, told

    def there(self) -> list[Path]:
        return sorted([*self.rules.iterdir(), *self.boards.iterdir()])

    def reloads(self) -> list[str]:
        asked = self.program.parent / "asked"
        return asked.read_text().splitlines() if asked.exists() else []


@pytest.fixture
def watcher(tmp_path: Path) -> Watcher:
    return Watcher(tmp_path)


def test_apply_repeat_undo_repeat_undo(watcher: Watcher) -> None:
    changed, told = watcher.done("--check", "--diff")
    assert changed
    assert "+      - alert: NatlbBackendDown" in told
    assert watcher.there() == []
    assert watcher.done()[0]
    assert (watcher.rules / RULES.name).read_text() == RULES.read_text()
    assert json.loads((watcher.boards / BOARD.name).read_text())["title"] == "natlb"
    assert not watcher.done("--diff")[0]
    assert watcher.done("--check", state="absent")[0]
    assert len(watcher.there()) == 2
    assert watcher.done(state="absent")[0]
    assert watcher.there() == []
    assert not watcher.done(state="absent")[0]


def test_prometheus_is_reloaded_where_rules_change(watcher: Watcher) -> None:
    watcher.done("--check", reload="prometheus")
    assert watcher.reloads() == []
    watcher.done(reload="prometheus")
    watcher.done(reload="prometheus")
    (watcher.boards / BOARD.name).unlink()
    watcher.done(reload="prometheus")
    assert watcher.reloads() == ["reload prometheus"], "nothing else has changed the rules"
    watcher.done(reload="prometheus", state="absent")
    assert len(watcher.reloads()) == 2


def test_alerts_lead_to_the_page_where_it_is_published(watcher: Watcher) -> None:
    where = "https://wiki.example.com/natlb/monitoring"
    assert watcher.done(runbooks=where)[0]
    assert not watcher.done(runbooks=where)[0]
    text = (watcher.rules / RULES.name).read_text()
    links = [
        (rule["alert"], rule["annotations"]["runbook_url"])
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert links == [(name, f"{where}#{name.lower()}") for name, _link in links]
    assert len(links) == RULES.read_text().count("- alert:")
    assert promtool("check", "rules", str(watcher.rules / RULES.name)).returncode == 0
    assert watcher.done()[0]
    assert (watcher.rules / RULES.name).read_text() == RULES.read_text()


def test_one_of_both_is_enough(watcher: Watcher) -> None:
    watcher.done(dashboards_directory="")
    assert watcher.there() == [watcher.rules / RULES.name]


def test_a_folder_that_is_not_there_is_not_made(watcher: Watcher) -> None:
    status, told = watcher.run(rules_directory=str(watcher.folder / "other"))
    assert status
    assert "other" in told
    assert "does not exist" in told


def test_a_mistake_is_told_before_anything_is_done(watcher: Watcher) -> None:
    status, told = watcher.run(reloads="prometheus")
    assert status
    assert (
        "natlb_monitoring_reloads: no role or playbook knows this variable (did you mean natlb_monitoring_reload?"
        in told
    )
    status, told = watcher.run(rules_directory="", dashboards_directory="")
    assert status
    assert "both are empty" in told
    assert watcher.there() == []
