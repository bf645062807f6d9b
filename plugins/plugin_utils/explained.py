# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of a module that needs no more than an explanation where it cannot start."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.plugin_utils import old_python


class ExplainedAction(ActionBase):
    """Runs the module that a subclass names."""

    MODULE = ""
    _supports_check_mode = True
    _supports_diff = True
    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        in_background = bool(self._task.async_val)
        try:
            result.update(self._executed(task_vars, in_background))
            old_python.explain(result)
            return result
        finally:
            if not in_background:
                self._remove_tmp_path(self._connection._shell.tmpdir)

    def _executed(self, task_vars: dict[str, Any] | None, in_background: bool) -> dict[str, Any]:
        return dict(self._execute_module(module_name=self.MODULE, task_vars=task_vars, wrap_async=in_background))
