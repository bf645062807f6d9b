# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module `balancer` hands back to its role."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.host import proc
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan.outcome import Outcome
from ansible_collections.natlb.netfilter.plugins.modules import balancer

SYSCTLS = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/eth0.100/src_valid_mark": "1"}


class Done(Exception):  # noqa: N818
    """Carries what a module exits with."""


class Module:
    """Stands in for AnsibleModule: fixed parameters, and no process to exit."""

    check_mode = False

    def __init__(self, **_options: Any) -> None:
        self.params = {name: option.get("default") for name, option in balancer.ARGUMENTS.items()}

    def warn(self, _text: str) -> None:
        pass

    def exit_json(self, **result: Any) -> None:
        raise Done(result)


def test_names_of_settings_have_slashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With dots, `eth0.100` would be read as `eth0/100`."""
    kinds = {"str": "", "bool": False, "int": 0}
    fields = {field.name: kinds.get(str(field.type), []) for field in dataclasses.fields(Outcome)}
    outcome = Outcome(**{**fields, "sysctls": SYSCTLS})
    monkeypatch.setattr(balancer, "AnsibleModule", Module)
    monkeypatch.setattr(balancer, "balance", lambda *_arguments, **_options: outcome)
    with pytest.raises(Done) as done:
        balancer.main()
    assert done.value.args[0]["sysctls"] == SYSCTLS


@pytest.mark.parametrize("value", ["4.0", 4.5, "soon", -1, 301, True, None])
def test_a_time_to_roll_back_is_refused_by_us(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    """Ansible lets it through as it is, and so the message has its place and the remedy."""
    assert balancer.ARGUMENTS["rollback_after"]["type"] == "raw"
    monkeypatch.setattr(proc, "parent_environments", list)
    with pytest.raises(Exception, match=r"^rollback_after: .* is not a number of seconds \(0-300\)$"):
        balancer.balance([], rollback_after=value)
