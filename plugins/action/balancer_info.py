# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of the module balancer_info: names the host in warnings, and uses the reader's names of
options."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.plugin_utils import host_warnings, old_python, variables

MODULE = "natlb.netfilter.balancer_info"


class ActionModule(ActionBase):
    """Runs the module."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            result.update(self._execute_module(module_name=MODULE, task_vars=task_vars))
            old_python.explain(result)
            # Playbooks of ours are run by those who type natlb_engine, not engine.
            if self._task._role is not None or (task_vars or {}).get("natlb_read_by_playbook"):
                variables.translate(result)
            host_warnings.add(result, str((task_vars or {}).get("inventory_hostname", "")))
            return result
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
