# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`ansible-doc` shows every key, choice and default of services, egress and conntrack that the parser knows."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import yaml
from _natlb import packets
from _natlb.model import backends, egress, entities, health, services, tracking
from _natlb.model.services import parse_config
from _natlb.model.tracking import Tracking, parse_tracking
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.action import balancer as action_plugin
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.plan import packed
from ansible_collections.natlb.netfilter.plugins.modules import balancer

OPTIONS: Mapping[str, Any] = yaml.safe_load(balancer.DOCUMENTATION)["options"]


def suboptions(*path: str) -> dict[str, Any]:
    found: Any = {"suboptions": OPTIONS}
    for name in path:
        found = found["suboptions"][name]
    return dict(found["suboptions"])


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        (("services",), services.SERVICE_KEYS),
        (("services", "backends"), backends.BACKEND_KEYS),
        (("services", "health"), health.KEYS),
        (("egress",), egress.KEYS),
        (("egress", "uplinks"), egress.UPLINK_KEYS),
        (("conntrack",), tracking.KEYS),
        (("conntrack", "timeouts"), tuple(tracking.TIMEOUTS)),
    ],
)
def test_every_key_of_the_parser_is_documented_and_no_other(path: tuple[str, ...], keys: tuple[str, ...]) -> None:
    assert sorted(suboptions(*path)) == sorted(keys)


def test_the_documentation_is_the_argument_spec() -> None:
    def shown(option: Mapping[str, Any], within: str) -> dict[str, Any]:
        kept = {key: option[key] for key in ("type", "elements", "choices", "default", "required") if key in option}
        kept[within] = {name: shown(item, within) for name, item in option.get(within, {}).items()}
        return {("options" if key == within else key): value for key, value in kept.items()}

    documented = {name: shown(option, "suboptions") for name, option in OPTIONS.items()}
    read = {name: shown(option, "options") for name, option in balancer.ARGUMENTS.items()}
    assert documented == read


SERVICE = {"name": "web", "listen": ["192.0.2.10:80"], "backends": [{"address": "10.0.0.3"}]}
RULE = {"source": ["10.0.0.0/24"]}
UPLINK = {"interface": "eth1", "gateway": "203.0.113.1"}


def defaults(*path: str) -> dict[str, Any]:
    return {name: option["default"] for name, option in suboptions(*path).items() if "default" in option}


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ([SERVICE], [{**SERVICE, **defaults("services")}]),
        (
            [SERVICE],
            [{**SERVICE, "backends": [{"address": "10.0.0.3", **defaults("services", "backends")}]}],
        ),
        (
            [{**SERVICE, "health": {"type": "tcp"}}],
            [{**SERVICE, "health": {"type": "tcp", **defaults("services", "health")}}],
        ),
    ],
    ids=["service", "backend", "health"],
)
def test_a_default_of_a_service_is_what_the_parser_takes(short: Any, long: Any) -> None:
    assert short != long
    assert parse_config(short) == parse_config(long)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (RULE, {**RULE, **defaults("egress")}),
        ({**RULE, "uplinks": [UPLINK]}, {**RULE, "uplinks": [{**UPLINK, **defaults("egress", "uplinks")}]}),
    ],
    ids=["egress", "uplink"],
)
def test_a_default_of_egress_is_what_the_parser_takes(short: Any, long: Any) -> None:
    assert short != long
    assert parse_config([], [short]) == parse_config([], [long])


@pytest.mark.parametrize(
    ("path", "name", "choices"),
    [
        (("services",), "protocol", packets.PROTOCOLS),
        (("services",), "method", entities.METHODS),
        (("services", "backends"), "state", entities.STATES),
        (("services", "health"), "type", tuple(health.HEALTH_KEYS)),
        (("egress",), "protocol", packets.PROTOCOLS),
    ],
)
def test_every_choice_of_the_parser_is_documented(path: tuple[str, ...], name: str, choices: tuple[str, ...]) -> None:
    assert suboptions(*path)[name]["choices"] == list(choices)


@pytest.mark.parametrize("value", ["reject", "drop"])
def test_choices_of_when_empty(value: str) -> None:
    assert suboptions("services")["when_empty"]["choices"] == ["reject", "drop"]
    assert parse_config([{**SERVICE, "when_empty": value}]).services[0].when_empty == value


def sent(monkeypatch: pytest.MonkeyPatch, **options: Any) -> dict[str, Any]:
    """What the action plugin hands to Ansible's check of arguments, and the options as the module finds them."""
    given: dict[str, Any] = {}

    def execute(module_name: str, module_args: dict[str, Any], task_vars: object) -> dict[str, Any]:
        del module_name, task_vars
        given.update(module_args)
        return {"changed": False}

    monkeypatch.setattr(ActionBase, "run", lambda *_arguments: {})
    action = action_plugin.ActionModule.__new__(action_plugin.ActionModule)
    action._task = SimpleNamespace(args=options, _role=None, async_val=0)
    action._connection = mock.Mock()
    monkeypatch.setattr(action, "_execute_module", execute)
    monkeypatch.setattr(action, "_remove_tmp_path", lambda _path: None)
    action.run(task_vars={})
    return given


@pytest.mark.parametrize(
    "options",
    [
        {"services": [{"name": "web", "no_such_key": None, "backends": "none"}]},
        {"services": "web"},
        {"egress": [{"snat": ["masquerade"]}], "services": []},
        {"conntrack": {"max": 5000, "timeouts": {"udp": "soon"}}},
        {"conntrack": "nothing of the kind"},
    ],
)
def test_ansible_does_not_check_before_the_parser(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its errors come one at a time, and without a place or a remedy."""
    given = sent(monkeypatch, **options)
    assert set(given) == {packed.OPTION}
    assert packed.unpack(given) == options


@pytest.mark.parametrize("text", ['{"max": "auto"}', "max=auto"])
def test_conntrack_as_text_is_read_as_ansible_reads_mappings(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = packed.unpack(sent(monkeypatch, conntrack=text))["conntrack"]
    assert parse_tracking(found) == Tracking(entries=0)
