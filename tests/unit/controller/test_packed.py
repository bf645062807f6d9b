# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the controller packs into one text, the host finds as it was typed."""

from __future__ import annotations

import datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.natlb.netfilter.plugins.action import balancer
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan.packed import OPTION, pack, unpack
from ansible_collections.natlb.netfilter.plugins.modules import balancer as module

SERVICES = [{"name": "wéb", "listen": ["192.0.2.10:80"], "log": False, "affinity": None, "backends": [{"weight": 1.5}]}]


@pytest.mark.parametrize(
    "options",
    [
        {"services": SERVICES, "engine": "nftables"},
        {"services": SERVICES, "egress": [{"source": "10.0.0.0/24"}], "persist": "yes"},
        {"services": []},
        {"services": "web", "egress": {}},
        {"services": None, "state": "absent"},
        {"state": "absent"},
        {},
    ],
)
def test_options_arrive_as_they_were_typed(options: dict[str, Any]) -> None:
    packed = pack(options)
    assert unpack(packed) == options
    assert not [name for name in ("services", "egress") if isinstance(packed.get(name), (list, dict))]
    assert set(packed) - set(options) <= {OPTION}


class Vaulted:
    """As Ansible has a string from a vault: no string, but with one to be had."""

    def __str__(self) -> str:
        return "10.0.0.3"


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (Vaulted(), "10.0.0.3"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (("a", 1), ["a", 1]),
        ({"b", "a"}, ["a", "b"]),
        ({1: "a"}, {"1": "a"}),
    ],
)
def test_values_of_yaml_arrive_as_ansible_hands_them_over(value: Any, arrives: Any) -> None:
    assert unpack(pack({"services": [{"name": value}]})) == {"services": [{"name": arrives}]}


def test_ten_thousand_services_are_a_short_text() -> None:
    services = [
        {"name": f"s{i}", "listen": f"198.18.{i // 250}.{i % 250}:80", "backends": [{"address": f"10.0.0.{k}"}]}
        for i in range(10000)
        for k in [i % 200]
    ]
    assert len(pack({"services": services})[OPTION]) < 200_000


def test_the_module_knows_the_text_and_keeps_it_out_of_the_journal() -> None:
    assert module.ARGUMENTS[OPTION]["no_log"]


@pytest.mark.parametrize(("verbosity", "shown"), [(0, {"engine": "auto"}), (3, {"engine": "auto", "services": []})])
def test_the_arguments_are_shown_with_vvv(
    verbosity: int, shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"changed": False, "invocation": {"module_args": {"engine": "auto", OPTION: "VALUE_SPECIFIED_IN_NO_LOG"}}}
    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    monkeypatch.setattr(Display(), "verbosity", verbosity)
    action = balancer.ActionModule.__new__(balancer.ActionModule)
    action._task = SimpleNamespace(args={"services": []}, _role=None, async_val=0)
    action._connection = mock.Mock()
    monkeypatch.setattr(action, "_execute_module", lambda **_arguments: told)
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    assert action.run(task_vars={})["invocation"] == {"module_args": shown}
