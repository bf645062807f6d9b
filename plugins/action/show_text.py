# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows lines to a person as they are, whatever format results are printed in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.plugin_utils import for_people

#: By how much a line matters.
_COLOURS = {"bad": constants.COLOR_ERROR, "odd": constants.COLOR_CHANGED}


def _marked(line: Any) -> tuple[str, str]:
    """A line is text, or a mapping of `text` and `level`."""
    if isinstance(line, Mapping):
        return str(line.get("text", "")), str(line.get("level", ""))
    return str(line), ""


class ActionModule(ActionBase):
    """Opens no connection."""

    _supports_check_mode = True
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"lines", "problems"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The lines, and a failure where there are problems."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        marked = [_marked(line) for line in self._task.args.get("lines") or []]
        problems = [str(line) for line in self._task.args.get("problems") or []]
        for text, level in [*marked, *((problem, "") for problem in problems)]:
            for_people.say(text, _COLOURS.get(level))
        result.update(changed=False, lines=[text for text, _level in marked])
        if problems:
            result.update(failed=True, msg="\n".join(problems))
        return result
