# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module backend: a wait in parts, between which it says how many connections are left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.action import backend
from ansible_collections.natlb.netfilter.plugins.plugin_utils import for_people

WAIT = {"backend": "web1", "state": "drained", "wait": True, "close_connections": True}


class Host:
    """`left` are the connections at the end of each part."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *left: int, **more: Any) -> None:
        self.left, self.more = list(left), more
        self.asked: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.now_s = 1000.0
        monkeypatch.setattr(backend.time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
        monkeypatch.setattr(for_people, "say", self.said.append)

    def execute(self, module_args: dict[str, Any] | None = None, **_more: Any) -> dict[str, Any]:
        asked = module_args or {}
        self.asked.append({key: asked.get(key) for key in ("wait_timeout", "wait_only", "close_connections")})
        active, first = self.left.pop(0), len(self.asked) == 1
        if active < 0:
            return {"failed": True, "msg": "web1 is in rotation again"}
        waited = asked.get("wait_timeout", 0) if active else 3.5
        # A module takes its time to start.
        self.now_s += waited + 0.7
        found = {"changed": first, "diff": {"prepared": "+web1" if first else ""}, "waited": waited, "closed": 0}
        return {**found, "active_connections": active, "changed_services": ["web"] if first else [], **self.more}

    def run(self, args: dict[str, Any], check: bool = False) -> dict[str, Any]:
        action = backend.ActionModule.__new__(backend.ActionModule)
        action._task = SimpleNamespace(args=args, _role=None, async_val=0, check_mode=check)
        action._connection = mock.Mock()
        action._execute_module = self.execute
        action._remove_tmp_path = lambda _path: None
        return dict(action.run(task_vars={"inventory_hostname": "lb1"}))


def test_it_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, 7, 2, 0)
    found = host.run({**WAIT, "wait_timeout": 60})
    assert host.said == [
        "lb1: web1 has 7 connections left after 11 of 60 s",
        "lb1: web1 has 2 connections left after 21 of 60 s",
    ]
    assert (found["changed"], found["active_connections"], found["waited"]) == (True, 0, 23.5)
    assert (found["diff"], found["changed_services"]) == ({"prepared": "+web1"}, ["web"])
    assert [asked["wait_only"] for asked in host.asked] == [None, True, True]


@pytest.mark.parametrize("limit", [*range(1, 70), 300, 301, 7 * 24 * 3600])
def test_connections_are_ended_at_the_deadline_and_not_before(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    host = Host(monkeypatch, *[2] * 100)
    found = host.run({**WAIT, "wait_timeout": str(limit)})
    assert [asked["close_connections"] for asked in host.asked] == [False] * (len(host.asked) - 1) + [True]
    assert found["active_connections"] == 2
    assert 0 <= host.now_s - 1000 - limit < 2, "the deadline is kept, whatever it takes to start a module"
    assert len(host.asked) < 60


def test_who_was_brought_back_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Host(monkeypatch, 7, -1).run({**WAIT, "wait_timeout": 60})
    assert (found["failed"], found["changed"], found["msg"]) == (True, True, "web1 is in rotation again")


@pytest.mark.parametrize(
    ("args", "check", "left"),
    [
        ({"backend": "web1", "state": "drained"}, False, [7]),
        ({**WAIT}, True, [7]),
        ({**WAIT, "wait_timeout": "soon"}, False, [7]),
        ({**WAIT, "wait_timeout": 7 * 24 * 3600 + 1}, False, [7]),
        ({**WAIT}, False, [0]),
        ({**WAIT}, False, [-1]),
        ({**WAIT, "wait_timeout": 0}, False, [7]),
    ],
)
def test_once_is_enough(monkeypatch: pytest.MonkeyPatch, args: dict[str, Any], check: bool, left: list[int]) -> None:
    host = Host(monkeypatch, *left)
    host.run(args, check)
    assert (len(host.asked), host.said) == (1, [])


def test_a_state_that_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, 7, waited=0.0)
    assert host.run({**WAIT, "state": "active"})["active_connections"] == 7
    assert len(host.asked) == 1
