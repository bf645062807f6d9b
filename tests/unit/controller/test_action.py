# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module balancer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.errors import AnsibleUndefinedVariable
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.action import balancer, balancer_info


@pytest.mark.parametrize("rollback_after", [30, "30", "30.0"])
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
    action._task = SimpleNamespace(args={"rollback_after": rollback_after}, _role=None, async_val=0)
    action._connection = mock.Mock()
    monkeypatch.setattr(action, "_execute_module", execute)
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    assert action.run(task_vars={}) == {"changed": True, "confirmed": True}
    assert asked == [
        (balancer.MODULE, {"rollback_after": rollback_after}),
        (balancer.CONFIRM, {"token": "t", "verdict": "keep"}),
    ]
    action._connection.reset.assert_called_once()


def test_options_by_their_old_names_are_told_the_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, and before the host is asked for anything."""
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    action = balancer.ActionModule.__new__(balancer.ActionModule)
    action._task = SimpleNamespace(
        args={"forward": "accept", "forward_others": "drop", "services": []}, _role=None, async_val=0
    )
    result = action.run(task_vars={})
    assert result["failed"]
    first, second = result["msg"].splitlines()
    assert first.startswith("forward: is now called firewall (")
    assert second.startswith("forward_others: is now called transit (")


@pytest.mark.parametrize(("role", "named"), [(None, "engine: iptables"), ("a role", "natlb_engine: iptables")])
def test_a_role_speaks_of_its_variables(role: str | None, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"failed": True, "msg": "or set engine: iptables", "remarks": ["or set engine: iptables"]}
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    action = balancer.ActionModule.__new__(balancer.ActionModule)
    action._task = SimpleNamespace(args={}, _role=role, async_val=0)
    action._connection = mock.Mock()
    monkeypatch.setattr(action, "_execute_module", lambda **_arguments: told)
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    result = action.run(task_vars={"inventory_hostname": "lb1"})
    assert (result["msg"], result["remarks"]) == (f"or set {named}", [f"or set {named}"])
    assert result["warnings"] == [f"lb1: or set {named}"]


class Templar:
    """A host without facts."""

    def template(self, value: Any) -> Any:
        if "ansible_facts" in str(value):
            raise AnsibleUndefinedVariable("'default_ipv4' is undefined")
        return value


PARTS = {
    "natlb_services_db": [{"name": "db"}],
    "natlb_services_web": "{{ [{'listen': ansible_facts.default_ipv4.address}] }}",
    "inventory_hostname": "lb1",
}


@pytest.mark.parametrize("told", ["", "services[0].name: web is taken"])
@pytest.mark.parametrize(("held", "ends"), [(False, {"confirmed": True}), (True, {"confirmed": False, "pending": "t"})])
def test_a_declaration_that_cannot_be_read_loses_no_change(
    told: str, held: bool, ends: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The playbook remove gathers no facts. Nobody would confirm, and the host would put back what was removed."""
    asked: list[str] = []

    def execute(module_name: str, task_vars: object, module_args: dict[str, Any] | None = None) -> dict[str, Any]:
        del task_vars, module_args
        asked.append(module_name)
        return {"changed": True, "_token": "t", "remarks": [told]} if module_name == balancer.MODULE else {}

    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    action = balancer.ActionModule.__new__(balancer.ActionModule)
    action._task = SimpleNamespace(args={"rollback_after": 30}, _role="a role", async_val=0)
    action._connection, action._templar = mock.Mock(), Templar()
    monkeypatch.setattr(action, "_execute_module", execute)
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    result = action.run(task_vars={**PARTS, "natlb_balancer_held": held})
    assert asked == [balancer.MODULE, balancer.CONFIRM]
    assert {key: result[key] for key in ends} == ends
    assert result["remarks"] == [f"natlb_{told}" if told else ""]


def test_what_cannot_be_read_before_the_change_is_told_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    action = balancer.ActionModule.__new__(balancer.ActionModule)
    action._task = SimpleNamespace(args={"rollback_after": 30}, _role="a role", async_val=0)
    action._connection, action._templar = mock.Mock(), Templar()
    action._execute_module = mock.Mock()  # type: ignore[method-assign]
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    with pytest.raises(AnsibleUndefinedVariable):
        action.run(task_vars={"natlb_balancer_held": "{{ ansible_facts.held }}"})
    action._execute_module.assert_not_called()


def test_a_message_names_the_part_that_holds_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    action = balancer.ActionModule.__new__(balancer.ActionModule)
    action._task = SimpleNamespace(args={}, _role="a role", async_val=0)
    action._connection, action._templar = mock.Mock(), Templar()
    told = {"failed": True, "msg": "services[1].name: db is taken"}
    monkeypatch.setattr(action, "_execute_module", lambda **_arguments: told)
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    result = action.run(task_vars={**PARTS, "natlb_services_web": [{"name": "db"}]})
    assert result["msg"] == "natlb_services_web[0].name: db is taken"


@pytest.mark.parametrize(("by_playbook", "named"), [(False, "firewall: accept"), (True, "natlb_firewall: accept")])
def test_a_playbook_speaks_of_the_roles_variables(
    by_playbook: bool, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    action = balancer_info.ActionModule.__new__(balancer_info.ActionModule)
    action._task = SimpleNamespace(args={}, _role=None, async_val=0)
    action._connection = mock.Mock()
    told = {"msg": "; firewall: accept", "remarks": ["; firewall: accept lets only them pass"]}
    monkeypatch.setattr(action, "_execute_module", lambda **_arguments: told)
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    result = action.run(task_vars={"inventory_hostname": "lb1", "natlb_read_by_playbook": by_playbook})
    assert result["msg"] == f"; {named}"
    assert result["warnings"] == [f"lb1: ; {named} lets only them pass"]


WARNED = "service web: no backend can serve"


@pytest.mark.parametrize("action", [balancer, balancer_info])
def test_a_warning_names_its_host(action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible shows the same words once: the second host's warning would not be seen."""
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    made = action.ActionModule.__new__(action.ActionModule)
    made._task = SimpleNamespace(args={}, _role=None, async_val=0)
    made._connection = mock.Mock()
    told = {"warnings": ["Ansible's own"], "remarks": [WARNED]}
    monkeypatch.setattr(made, "_execute_module", lambda **_arguments: told)
    monkeypatch.setattr(made, "_remove_tmp_path", lambda _path: None)
    result = made.run(task_vars={"inventory_hostname": "lb1"})
    assert result["warnings"] == ["Ansible's own", f"lb1: {WARNED}"]
