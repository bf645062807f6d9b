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
from _natlb.plan import declaration, packed
from _natlb.plan.balance import balance
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.action import validate_declaration as plugin
from ansible_collections.natlb.netfilter.plugins.modules import balancer
from ansible_collections.natlb.netfilter.plugins.plugin_utils import composition, variables

WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}]}


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = {
        "services": [{**WEB, "listen": "192.0.2.10:99999"}, {**WEB, "name": "Web"}],
        "egress": [{"source": "10.0.0.1/24"}],
        "mark_mask": "five",
        "conntrack": {"max": "much"},
        "rollback_after": 1000,
        "engine": "ipfw",
        "firewall": "maybe",
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
        "firewall",
        "state",
        "forwarding",
    ]


@pytest.mark.parametrize(
    "values", [{}, {"services": [WEB], "mark_mask": "", "rollback_after": "30"}, {"forwarding": "no"}]
)
def test_what_is_right_is_right(values: dict[str, Any]) -> None:
    declaration.check(values)


def test_its_options_are_those_of_the_module() -> None:
    assert {*declaration.OPTIONS, "assume_installed", packed.OPTION} == set(balancer.ARGUMENTS)
    for option, choices in declaration.CHOICES.items():
        assert list(choices) == balancer.ARGUMENTS[option]["choices"]


def problems(
    given: dict[str, Any], templated: dict[str, Any] | None = None, role: str | None = "balancer"
) -> list[str]:
    """What the action says about a host with these variables; `templated` are the values of templates, or the error of
    one that cannot be read."""
    action = plugin.ActionModule.__new__(plugin.ActionModule)
    action._task = SimpleNamespace(args={} if role is None else {"role": role})
    values = templated or {}

    def template(value: Any) -> Any:
        found = values.get(value, value) if isinstance(value, str) else value
        if isinstance(found, Exception):
            raise found
        return found

    action._templar = SimpleNamespace(template=template)
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
    assert f"{tmp_path} has neither group_vars nor host_vars" in message
    (tmp_path / "group_vars").mkdir()
    assert f"{tmp_path} has group_vars" in problems({"inventory_dir": str(tmp_path)})[0]


def test_a_template_that_comes_out_empty_is_not_written() -> None:
    template = "{{ groups.web | default([]) }}"
    (message,) = problems({"natlb_services": template}, {template: []})
    assert template in message
    assert problems({"natlb_services": template}, {template: [WEB]}) == []


@pytest.mark.parametrize("given", [None, "{{ groups.web | default([]) }}"], ids=["nothing", "template"])
def test_beside_parts_an_empty_list_is_no_remedy(given: Any) -> None:
    """It would remove nothing of what the parts declare."""
    (message,) = problems({"natlb_services": given, "natlb_services_web": [WEB]}, {given: []})
    assert "leave it out: natlb_services_web declares services as well" in message
    assert "natlb_services: []" not in message
    assert "every service" not in message


@pytest.mark.parametrize("name", sorted(variables.OF_BALANCER - {"natlb_services"}))
def test_a_variable_that_is_set_to_nothing_is_not_left_out(name: str) -> None:
    (message,) = problems({"natlb_services": [WEB], name: None})
    assert message.startswith(f"{name}: has no value (")


def test_a_removal_does_not_read_what_is_declared() -> None:
    assert problems({"natlb_state": "absent", "natlb_egress": None, "natlb_services": None}) == []


@pytest.mark.parametrize("name", sorted(variables.OF_RETURN_PATH))
def test_the_variables_of_backends_too(name: str) -> None:
    (message,) = problems({"natlb_return_gateway": "10.0.0.1", name: None}, role="return_path")
    assert message.startswith(f"{name}: has no value (")
    assert problems({"natlb_return_gateway": None, "natlb_return_state": "absent"}, role="return_path") == []


@pytest.mark.parametrize("name", sorted(variables.OF_MONITORING))
def test_those_of_monitoring_too(name: str) -> None:
    given = {"natlb_monitoring_rules_directory": "/x", "natlb_monitoring_dashboards_directory": "/x", name: None}
    (message,) = problems(given, role="monitoring")
    assert message.startswith(f"{name}: has no value (")


def test_monitoring_needs_a_folder() -> None:
    (message,) = problems({"natlb_monitoring_rules_directory": ""}, role="monitoring")
    assert "both are empty" in message
    (message,) = problems({"natlb_monitoring_rules_directory": "rules"}, role="monitoring")
    assert "'rules' is not an absolute path" in message
    assert problems({"natlb_monitoring_rules_directory": "/etc/prometheus/rules"}, role="monitoring") == []


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("state", "presnt", "natlb_state: 'presnt' is not a choice here (choose one of present, absent)"),
        ("engine", "ipfw", "natlb_engine: 'ipfw' is not a choice here (choose one of auto, nftables, iptables)"),
        ("conntrack", {"maxx": 1}, "natlb_conntrack.maxx: no such key (did you mean max?)"),
        (
            "conntrack",
            [],
            "natlb_conntrack: [] is not a mapping (write a mapping with the keys max, buckets, timeouts)",
        ),
        ("forwarding", "maybe", "natlb_forwarding: 'maybe' is neither true nor false (write true or false)"),
        (
            "mark_mask",
            "five",
            "natlb_mark_mask: 'five' is not a number (write a run of adjoining bits such as 0x3f000000)",
        ),
    ],
)
def test_errors_name_the_variable_of_an_option(name: str, value: Any, complaint: str) -> None:
    assert problems({"natlb_services": [WEB], f"natlb_{name}": value}) == [complaint]


def test_settings_of_the_run_are_looked_for_at_all_hosts() -> None:
    """One message for each, however many hosts say it. They are looked at once, with no role."""
    lb = {"natlb_serial": "foo", "natlb_verify_from": "clint"}
    given = {"natlb_max_fail_percentage": 200, "groups": {"all": ["lb1", "client"]}, "hostvars": {"lb1": lb, "lb2": lb}}
    told = problems(given, role=None)
    assert [message.partition(":")[0] for message in told] == [
        "natlb_max_fail_percentage",
        "natlb_serial",
        "natlb_verify_from",
    ]
    assert problems(given | {"natlb_services": [WEB]}) == []


def test_errors_name_the_variables() -> None:
    told = problems({"natlb_services": [{**WEB, "backends": [{"address": "10.0.0.3", "port": 99999}]}]})
    assert told == ["natlb_services[0].backends[0].port: 99999 is not a port (1-65535)"]


def test_all_that_the_engine_cannot_do_is_told_at_once() -> None:
    """Where it is chosen here: `auto` is for the host to tell."""
    limited = {"address": "10.0.0.4", "max_connections": 5}
    services = [
        {**WEB, "backends": ["10.0.0.3", limited], "idle_timeout": "10m"},
        {**WEB, "name": "ftp", "listen": "192.0.2.10:21", "helper": "ftp", "mark": "0x10/0xff"},
    ]
    given = {"natlb_services": services, "natlb_engine": "iptables"}
    told = problems(given)
    assert [message.partition(": the iptables engine cannot do it: ")[0] for message in told] == [
        "natlb_services[0].backends[1].max_connections",
        "natlb_services[0].idle_timeout",
        "natlb_services[1].helper",
    ]
    assert problems({**given, "natlb_engine": "nftables"}) == problems({"natlb_services": services}) == []


@pytest.mark.parametrize("egress", [None, []])
def test_a_module_that_is_asked_for_nothing_refuses(egress: Any) -> None:
    with pytest.raises(ConfigError, match=r"^services: is missing \(write services: \[\] or state: absent"):
        balance(None, egress)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"natlb_metrics_listen": "127.0.0.1"}, "natlb_metrics_listen: '127.0.0.1' has no port"),
        ({"natlb_metrics_directory": "here"}, "natlb_metrics_directory: 'here' is not an absolute path"),
        ({"natlb_metrics_idle": "perhaps"}, "natlb_metrics_idle"),
    ],
)
def test_metrics_are_checked_by_the_names_of_variables(given: dict[str, Any], said: str) -> None:
    assert problems({"natlb_services": [], "natlb_metrics_listen": "", "natlb_metrics_directory": ""}) == []
    (problem,) = problems({"natlb_services": [], **given})
    assert problem.startswith(said)


DB = {"name": "db", "listen": "192.0.2.10:5432", "backends": [{"address": "10.0.0.4"}]}
SSH = {"name": "ssh", "listen": "192.0.2.10:22", "backends": [{"address": "10.0.0.5"}]}


@pytest.mark.parametrize(
    "given",
    [
        {"natlb_services_web": [WEB]},
        {"natlb_services_web": [WEB], "natlb_services_db": [DB], "natlb_services": [SSH]},
        {"natlb_services_web": [], "natlb_services": []},
        {"natlb_services_web": []},
        {"natlb_services": [WEB], "natlb_egress_a": [{"source": "10.0.0.0/24"}], "natlb_egress_b": []},
        {"natlb_state": "absent", "natlb_services_web": None},
    ],
)
def test_services_of_several_variables(given: dict[str, Any]) -> None:
    assert problems(given) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"natlb_services_db": [DB, SSH, {**WEB, "listen": "192.0.2.10:81"}], "natlb_services_web": [WEB]},
            "natlb_services_web[0].name: web is the name of natlb_services_db[2] already",
        ),
        (
            {"natlb_services_web": [WEB], "natlb_services_db": [DB, {**SSH, "listen": "192.0.2.10:80"}]},
            "natlb_services_web[0].listen: web and ssh (natlb_services_db[1]) both claim tcp 192.0.2.10:80",
        ),
        (
            {"natlb_services": [DB], "natlb_services_web": [{**WEB, "name": "db"}]},
            "natlb_services_web[0].name: db is the name of natlb_services[0] already",
        ),
        (
            {"natlb_services_db": [DB], "natlb_services_web": [{**WEB, "backends": [{"address": "1", "port": 99999}]}]},
            "natlb_services_web[0].backends[0].address: '1' is not an IP address",
        ),
        (
            {"natlb_services_web": {"name": "web"}, "natlb_services_db": [DB]},
            "natlb_services_web: {'name': 'web'} is not a list (write a list)",
        ),
        (
            {"natlb_services_web": None, "natlb_services_db": [DB]},
            "natlb_services_web: has no value",
        ),
        (
            {"natlb_services": [], "natlb_egress_a": [{"source": "10.0.0.0/24"}], "natlb_egress_b": [{"source": "x"}]},
            "natlb_egress_b[0].source: 'x' is not a network (write one such as 198.51.100.0/24 or 2001:db8::/32)",
        ),
        (
            {"natlb_service_web": [WEB], "natlb_services": []},
            "natlb_service_web: no role or playbook knows this variable (did you mean natlb_services_web?",
        ),
    ],
)
def test_what_is_wrong_with_them_is_told_by_the_variable_that_has_it(given: dict[str, Any], told: str) -> None:
    assert problems(given)[0].startswith(told)


def test_a_part_that_comes_out_empty_is_not_written() -> None:
    template = "{{ groups.web | default([]) }}"
    (message,) = problems({"natlb_services_web": template, "natlb_services_db": [DB]}, {template: []})
    assert message.startswith(f"natlb_services_web: the template {template!r} gives an empty list, which would remove")
    assert problems({"natlb_services_web": template}, {template: [WEB]}) == []


def test_a_part_is_not_added_twice() -> None:
    template = "{{ natlb_services_web + natlb_services_db }}"
    given = {"natlb_services": template, "natlb_services_web": [WEB], "natlb_services_db": [DB]}
    message = problems(given, {template: [WEB, DB]})[0]
    assert message.startswith("natlb_services: its template names natlb_services_db, which is added to the list anyway")
    assert problems({**given, "natlb_services": "{{ web }}"}, {"{{ web }}": [SSH]}) == []


def test_nothing_is_an_error_although_there_are_parts() -> None:
    assert problems({"natlb_services": None, "natlb_services_web": [WEB]})[0].startswith("natlb_services: is set to")
    assert problems({"natlb_egress_a": []})[0].startswith("natlb_services: is not set for this host")


def test_the_order_is_that_of_the_names() -> None:
    """Whatever the order in which Ansible has read them."""
    given = {"natlb_services_web": [WEB], "natlb_services_": [SSH], "natlb_services_db": [DB], "natlb_services": [SSH]}
    found = composition.compose("services", given)
    assert found.items == [SSH, DB, WEB]
    assert found.places == ["natlb_services[0]", "natlb_services_db[0]", "natlb_services_web[0]"]


@pytest.mark.parametrize(
    ("variable", "others"),
    [
        ("natlb_anycast_addresses", ["natlb_anycast_as", "natlb_anycast_neighbors[0].as"]),
        ("natlb_anycast_neighbors", ["natlb_anycast_as"]),
        ("natlb_anycast_state", []),
    ],
)
def test_what_cannot_be_read_hides_nothing_else_of_anycast(variable: str, others: list[str]) -> None:
    """Unless it is whether anything is to be announced at all."""
    given = {
        "natlb_anycast_as": 0,
        "natlb_anycast_neighbors": [{"address": "192.0.2.1", "as": "x"}],
        "natlb_anycast_addresses": ["203.0.113.10"],
        "natlb_anycast_state": "present",
        variable: "{{ nothing }}",
    }
    told = problems(given, {"{{ nothing }}": AnsibleError("no such variable")}, role="anycast")
    assert told[0] == f"{variable}: cannot be read: no such variable"
    assert [line.partition(": ")[0] for line in told[1:]] == others
