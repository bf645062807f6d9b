# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module backend: explains a host that cannot run it."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.plugin_utils import old_python

MODULE = "natlb.netfilter.backend"


class ActionModule(ActionBase):
    """Runs the module."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            result.update(self._execute_module(module_name=MODULE, task_vars=task_vars))
            old_python.explain(result)
            return result
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
