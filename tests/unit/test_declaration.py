# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked for, checked with no host at hand; and what is not there by accident."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from _natlb.errors import ConfigError, ConfigErrors
from _natlb.plan import declaration
from _natlb.plan.balance import balance
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.action import declaration as plugin
from ansible_collections.natlb.netfilter.plugins.modules import balancer

WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}]}


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = {
        "services": [{**WEB, "listen": "192.0.2.10:99999"}, {**WEB, "name": "Web"}],
        "egress": [{"source": "10.0.0.1/24"}],
        "mark_mask": "five",
        "conntrack": {"max": "much"},
        "rollback_after": 1000,
        "engine": "ipfw",
        "forward": "maybe",
        "state": "gone",
        "forwarding": "perhaps",
    }
    with pytest.raises(ConfigErrors) as caught:
        declaration.check(wrong)
    assert [error.path for error in caught.value.errors] == [
        "services[0].listen",
        "services[1].name",
        "egress[0].source",
        "mark_mask",
        "conntrack.max",
        "rollback_after",
        "engine",
        "forward",
        "state",
        "forwarding",
    ]


@pytest.mark.parametrize(
    "values", [{}, {"services": [WEB], "mark_mask": "", "rollback_after": "30"}, {"forwarding": "no"}]
)
def test_what_is_right_is_right(values: dict[str, Any]) -> None:
    declaration.check(values)


def test_its_options_are_those_of_the_module() -> None:
    assert {*declaration.OPTIONS, "assume_installed"} == set(balancer.ARGUMENTS)
    for option, choices in declaration.CHOICES.items():
        assert list(choices) == balancer.ARGUMENTS[option]["choices"]


def problems(given: dict[str, Any], templated: dict[str, Any] | None = None) -> list[str]:
    """What the action says about a host with these variables; `templated` are the values of templates."""
    action = plugin.ActionModule.__new__(plugin.ActionModule)
    action._task = SimpleNamespace(args={"role": "balancer"})
    values = templated or {}
    action._templar = SimpleNamespace(
        template=lambda value: values.get(value, value) if isinstance(value, str) else value
    )
    with mock.patch.object(ActionBase, "run", return_value={}):
        result = action.run(task_vars=given)
    assert result["changed"] is False
    assert bool(result.get("failed")) == ("msg" in result)
    return result.get("msg", "").splitlines()


@pytest.mark.parametrize(
    "given",
    [
        {"natlb_services": [WEB]},
        {"natlb_services": []},
        {"natlb_services": [], "natlb_egress": [{"source": "10.0.0.0/24"}]},
        {"natlb_state": "absent"},
        {"natlb_state": "absent", "natlb_services": "not a list"},
        {"natlb_services": [WEB], "hostvars": {}, "inventory_dir": "/etc/ansible"},
    ],
)
def test_a_declaration_that_is_meant(given: dict[str, Any]) -> None:
    assert problems(given) == []


@pytest.mark.parametrize("given", [{}, {"natlb_egress": [{"source": "10.0.0.0/24"}]}, {"natlb_services": None}])
def test_services_that_are_not_there_are_an_error(given: dict[str, Any]) -> None:
    (message,) = problems(given)
    assert message.startswith("natlb_services: is ")
    assert "natlb_services: []" in message
    assert "natlb_state: absent" in message


def test_the_variable_that_was_typed_instead_is_named() -> None:
    assert "natlb_services: is not set for this host, but natlb_service is (" in problems({"natlb_service": [WEB]})[0]
    told = problems({"natlb_servics": [WEB]})
    assert [line.partition(":")[0] for line in told] == ["natlb_servics", "natlb_services"]


def test_where_variables_are_looked_for_is_named(tmp_path: Path) -> None:
    (message,) = problems({"inventory_dir": str(tmp_path)})
    assert f"in {tmp_path} there are neither group_vars nor host_vars" in message
    (tmp_path / "group_vars").mkdir()
    assert f"in {tmp_path} there are group_vars" in problems({"inventory_dir": str(tmp_path)})[0]


def test_a_template_that_comes_out_empty_is_not_written() -> None:
    template = "{{ groups.web | default([]) }}"
    (message,) = problems({"natlb_services": template}, {template: []})
    assert template in message
    assert problems({"natlb_services": template}, {template: [WEB]}) == []


def test_errors_name_the_variables() -> None:
    told = problems({"natlb_services": [{**WEB, "backends": [{"address": "10.0.0.3", "port": 99999}]}]})
    assert told == ["natlb_services[0].backends[0].port: 99999 is not a port (1-65535)"]


@pytest.mark.parametrize("egress", [None, []])
def test_a_module_that_is_asked_for_nothing_refuses(egress: Any) -> None:
    with pytest.raises(ConfigError, match=r"^services: is missing \(write services: \[\] or state: absent"):
        balance(None, egress)
