# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows lines to a person as they are, whatever format results are printed in."""

from __future__ import annotations

from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

#: Callbacks whose output is read by programs: it would not be what they read with lines of ours in it.
_FOR_PROGRAMS = ("json", "jsonl", "json_lines", "null", "ndjson")


class ActionModule(ActionBase):
    """Opens no connection."""

    _supports_check_mode = True
    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset({"lines", "problems"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The lines, and a failure where there are problems."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        lines, problems = ([str(line) for line in self._task.args.get(name) or []] for name in ("lines", "problems"))
        if str(constants.DEFAULT_STDOUT_CALLBACK).rpartition(".")[2] not in _FOR_PROGRAMS:
            display = Display()
            for line in [*lines, *problems]:
                display.display(line)
        result.update(changed=False, lines=lines)
        if problems:
            result.update(failed=True, msg="\n".join(problems))
        return result
