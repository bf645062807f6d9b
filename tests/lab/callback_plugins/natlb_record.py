# Copyright: natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write down what each playbook run changed, so that the tests can compare a check-mode run with the real one."""

from __future__ import annotations

DOCUMENTATION = """
name: natlb_record
type: notification
short_description: Write the diffs and the recap of a playbook run to a file
description:
  - Writes one JSON file a run, C(PLAYBOOK-check-N.json) or C(PLAYBOOK-run-N.json), into a folder.
  - Does nothing without the folder.
author: natlb contributors
options:
  folder:
    description: Where the files go.
    type: path
    env:
      - name: NATLB_RECORD_DIR
"""

import json
import pathlib
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

SIDES = ("before", "after", "prepared")


class CallbackModule(CallbackBase):
    """One record per playbook run: the tasks that report a change, their diffs, and the recap."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "natlb_record"

    def __init__(self) -> None:
        super().__init__()
        self.playbook = ""
        self.changes: list[dict[str, Any]] = []

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self.playbook = pathlib.Path(playbook._file_name).stem

    def v2_runner_on_ok(self, result: Any) -> None:
        outcome = result._result
        if not outcome.get("changed"):
            return
        items = outcome.get("results", [outcome])
        self.changes.append(
            {
                "host": result._host.get_name(),
                "task": result._task.get_name(),
                "diff": [diff for item in items if item.get("changed") for diff in diffs_of(item)],
            }
        )

    def v2_playbook_on_stats(self, stats: Any) -> None:
        folder = self.get_option("folder")
        if not folder or not pathlib.Path(folder).is_dir():
            return
        mode = "check" if context.CLIARGS.get("check") else "run"
        number = len(list(pathlib.Path(folder).glob(f"{self.playbook}-{mode}-*.json"))) + 1
        recap = {host: stats.summarize(host) for host in stats.processed}
        record = {"changes": self.changes, "recap": recap}
        path = pathlib.Path(folder, f"{self.playbook}-{mode}-{number}.json")
        path.write_text(json.dumps(record, indent=2, default=str))


def diffs_of(item: dict[str, Any]) -> list[dict[str, Any]]:
    """A result's diffs, less what Ansible itself reports differently in check mode and in a real run.

    That is the headers, which name temporary files, and the attributes of files that are yet to be made.
    """
    diffs = item.get("diff") or []
    diffs = diffs if isinstance(diffs, list) else [diffs]
    kept = [
        {side: comparable(diff[side]) for side in SIDES if side in diff} for diff in diffs if isinstance(diff, dict)
    ]
    return [diff for diff in kept if diff.get("prepared") or diff.get("before") != diff.get("after")]


def comparable(side: Any) -> Any:
    """Of a file's attributes, which come as a dict: where it is, and whether."""
    if isinstance(side, dict) and "path" in side:
        return {key: side[key] for key in ("path", "state") if key in side}
    return side
