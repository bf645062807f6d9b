# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module balancer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.action import balancer


@pytest.mark.parametrize("rollback_after", [30, "30"])
def test_a_change_is_confirmed_where_results_do_not_repeat_the_arguments(
    rollback_after: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ansible-core 2.21 has left `invocation` out of them."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def execute(module_name: str, task_vars: object, module_args: dict[str, Any] | None = None) -> dict[str, Any]:
        del task_vars
        asked.append((module_name, module_args or {}))
        return {"changed": True, "_token": "t"} if module_name == balancer.MODULE else {"changed": False}

    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    action = balancer.ActionModule.__new__(balancer.ActionModule)
    action._task = SimpleNamespace(args={"rollback_after": rollback_after})
    action._connection = mock.Mock()
    monkeypatch.setattr(action, "_execute_module", execute)
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    assert action.run(task_vars={}) == {"changed": True, "confirmed": True}
    assert asked == [(balancer.MODULE, {}), (balancer.CONFIRM, {"token": "t"})]
    action._connection.reset.assert_called_once()
