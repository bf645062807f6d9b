# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What playbooks take beside the variables of roles: what is right passes, what is wrong is told with its place."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.natlb.netfilter.plugins.modules import probe
from ansible_collections.natlb.netfilter.plugins.plugin_utils import playbook_settings, probe_options, variables

HOSTS = ("lb1", "client", "web1")


def told(name: str, value: Any) -> list[str]:
    return playbook_settings.problems({f"natlb_{name}": value, "natlb_services": None}, HOSTS)


@pytest.mark.parametrize("name", sorted(variables.PLAYBOOKS))
def test_every_setting_is_read(name: str) -> None:
    (message,) = told(name.removeprefix("natlb_"), None)
    assert message.startswith(f"{name}: has no value (")


def test_options_of_probes_are_those_of_the_module() -> None:
    assert {*probe_options.MODULE} == {*probe.ARGUMENT_SPEC}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hosts", "balancers:!lb3"),
        ("backend_hosts", ["web", "db"]),
        ("serial", 1),
        ("serial", "2"),
        ("serial", "30%"),
        ("serial", [1, "5", "100%"]),
        ("max_fail_percentage", 0),
        ("max_fail_percentage", "30%"),
        ("max_fail_percentage", "12.5"),
        ("gather_facts", "yes"),
        ("fail_on_problems", False),
        ("report_file", "~/reports/natlb.html"),
        ("format", "table"),
        ("format", "json"),
        ("service", "web"),
        ("backend", "web2"),
        ("backend", "[2001:db8::4]:80"),
        ("reason", ""),
        ("min_active", 0),
        ("min_active", "2"),
        ("wait", "no"),
        ("wait_timeout", "0"),
        ("close_connections", True),
        ("verify_from", "client"),
        ("verify_from", "localhost"),
        ("verify_connections", "300"),
        ("verify_address", "2001:db8::2"),
        ("verify_address", "lb1.example.org"),
        ("verify_address", ["192.0.2.2", "2001:db8::2"]),
        ("verify_probes", {}),
        ("verify_probes", {"web": {}, "db": {"from": "client", "names": {"web1": "a"}, "tolerance": "0.1"}}),
        ("verify_probes", {"web": {"protocol": "http", "path": "/", "status": [200], "expected": {"web1": 1}}}),
    ],
)
def test_what_is_right(name: str, value: Any) -> None:
    assert told(name, value) == []


SERIAL = 'is not a number of hosts above 0 (write a number of hosts such as 2, a percentage such as "30%", or a list'


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("hosts", "", ": is empty (write a group"),
        ("hosts", 5, ": 5 is not a text"),
        ("backend_hosts", ["web", " "], "[1]: is empty"),
        ("serial", "foo", f": 'foo' {SERIAL}"),
        ("serial", 0, f": 0 {SERIAL}"),
        ("serial", True, f": True {SERIAL}"),
        ("serial", "0%", f": '0%' {SERIAL}"),
        ("serial", "200%", f": '200%' {SERIAL}"),
        ("serial", [1, -2], f"[1]: -2 {SERIAL}"),
        ("serial", [], ": is empty (write a number of hosts"),
        ("max_fail_percentage", 200, ": 200 is not a percentage (0-100)"),
        ("max_fail_percentage", -1, ": -1 is not a percentage (0-100)"),
        ("max_fail_percentage", "all", ": 'all' is not a percentage (0-100)"),
        ("max_fail_percentage", True, ": True is not a percentage (0-100)"),
        ("max_fail_percentage", [5], ": [5] is not a percentage (0-100)"),
        ("gather_facts", "maybe", ": 'maybe' is neither true nor false"),
        ("service", "Web", ": 'Web' is not a name"),
        ("backend", ["web1", "web2"], ": ['web1', 'web2'] is not one backend (write one name or address, and run"),
        ("backend", " ", ": is empty (write the name"),
        ("backend", 2, ": 2 is not a text"),
        ("reason", ["new"], ": ['new'] is not a text"),
        ("min_active", -1, ": -1 is not a number of backends (0-4096)"),
        ("min_active", "50%", ": '50%' is not a number of backends"),
        ("wait", "perhaps", ": 'perhaps' is neither true nor false"),
        ("wait_timeout", "5m", ": '5m' is not a number of seconds (0-604800)"),
        ("close_connections", 2, ": 2 is neither true nor false"),
        ("fail_on_problems", 7, ": 7 is neither true nor false"),
        ("verify_from", "clint", ": no host 'clint' is in the inventory (did you mean client?)"),
        ("verify_from", "zzzz", ": no host 'zzzz' is in the inventory (name a host of it, or localhost)"),
        ("verify_from", ["client"], ": ['client'] is not a text"),
        ("verify_connections", "foo", ": 'foo' is not a number of connections (1-1000000)"),
        ("verify_connections", 0, ": 0 is not a number of connections (1-1000000)"),
        ("verify_address", "lb 1", ": 'lb 1' is neither an address nor a host name"),
        ("verify_address", ["192.0.2.2", "lb 1"], "[1]: 'lb 1' is neither an address nor a host name"),
        ("verify_address", "192.0.2.300", ": '192.0.2.300' is neither an address nor a host name"),
        ("verify_probes", [], ": [] is not a mapping (write a mapping of services"),
        ("verify_probes", {"web": "http"}, ".web: 'http' is not a mapping (write a mapping of options"),
        ("verify_probes", {"web": {"tolerence": 0}}, ".web.tolerence: no such option (did you mean tolerance?)"),
        ("verify_probes", {"web": {"zzzz": 0}}, ".web.zzzz: no such option (known keys: target, "),
        ("verify_probes", {"web": {5: 0}}, ".web.5: no such option"),
        ("verify_probes", {"web": {"tolerance": None}}, ".web.tolerance: has no value"),
        ("verify_probes", {"web": {"tolerance": "x"}}, ".web.tolerance: 'x' is not a fraction"),
        ("verify_probes", {"web": {"connections": "foo"}}, ".web.connections: 'foo' is not a number of connections"),
        ("verify_probes", {"web": {"names": []}}, ".web.names: [] is not a mapping"),
        ("verify_probes", {"web": {"from": "clint"}}, ".web.from: no host 'clint' is in the inventory (did you mean"),
    ],
)
def test_what_is_wrong(name: str, value: Any, complaint: str) -> None:
    (message,) = told(name, value)
    assert message.startswith(f"natlb_{name}{complaint}")


def test_all_that_is_wrong_is_told_at_once() -> None:
    given = {
        "natlb_serial": [0, "x"],
        "natlb_verify_probes": {"web": {"tolerence": 0, "timeout": "soon"}, "db": {"protocol": "ftp"}},
    }
    assert [message.partition(": ")[0] for message in playbook_settings.problems(given, HOSTS)] == [
        "natlb_serial[0]",
        "natlb_serial[1]",
        "natlb_verify_probes.web.tolerence",
        "natlb_verify_probes.web.timeout",
        "natlb_verify_probes.db.protocol",
    ]
