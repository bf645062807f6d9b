# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module backend: says how far a wait is, and explains a host that cannot run it."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.entities import MAX_WAIT_S
from ansible_collections.natlb.netfilter.plugins.plugin_utils import for_people
from ansible_collections.natlb.netfilter.plugins.plugin_utils.explained import ExplainedAction

#: How long the module waits until the controller says how many connections are left.
PART_S = 10


class ActionModule(ExplainedAction):
    """Runs the module, again and again while it waits."""

    MODULE = "natlb.netfilter.backend"

    def _executed(self, task_vars: dict[str, Any] | None, in_background: bool) -> dict[str, Any]:
        limit = _seconds(self._task.args.get("wait_timeout", 300))
        waits = boolean(self._task.args.get("wait", False), strict=False)
        if in_background or not waits or limit is None or self._task.check_mode:
            return super()._executed(task_vars, in_background)
        began, passed, total = time.monotonic(), 0, {}
        while True:
            left = max(0, limit - passed)
            # Lines come less often as time goes by.
            part = min(left, max(PART_S, passed // 4))
            total = _joined(total, self._part(task_vars, part, not total, part == left))
            if part == left or not _goes_on(total):
                return total
            passed = round(time.monotonic() - began)
            for_people.say(self._progress(total, passed, limit, (task_vars or {}).get("inventory_hostname")))

    def _part(self, task_vars: dict[str, Any] | None, seconds: int, first: bool, last: bool) -> dict[str, Any]:
        changes: dict[str, Any] = {"wait_timeout": seconds}
        if not first:
            # Somebody may have brought it back meanwhile.
            changes["wait_only"] = True
        if not last:
            changes["close_connections"] = False
        arguments = {**self._task.args, **changes}
        return dict(self._execute_module(module_name=self.MODULE, module_args=arguments, task_vars=task_vars))

    def _progress(self, found: dict[str, Any], passed: int, limit: int, host: Any) -> str:
        left = found["active_connections"]
        return f"{host}: {self._task.args.get('backend')} has {left} connections left after {passed} of {limit} s"


def _seconds(value: Any) -> int | None:
    """None where the module is to complain of it."""
    try:
        seconds = int(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds <= MAX_WAIT_S else None


def _goes_on(found: dict[str, Any]) -> bool:
    """Whether connections are left, and were waited for."""
    return not found.get("failed") and found.get("active_connections", 0) > 0 and found.get("waited", 0) > 0


def _joined(before: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Two parts of one wait: what was done in either, and how it is at the end."""
    if not before or found.get("failed"):
        return {**found, "changed": bool(before.get("changed") or found.get("changed"))}
    kept = {key: before[key] for key in ("diff", "changed_services", "overrides") if key in before}
    return {
        **found,
        **kept,
        "changed": before["changed"] or found["changed"],
        "waited": before["waited"] + found["waited"],
        "closed": before["closed"] + found["closed"],
    }
