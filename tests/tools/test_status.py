# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook status, run on two balancers that are network namespaces."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from playbook_site import VIP, WEB1, WEB2, Site, recap

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)

BACKENDS = [{"address": WEB1, "port": 8080}, {"address": WEB2, "port": 8080}]
DECLARED = [{"name": "web", "listen": f"{VIP}:80", "backends": BACKENDS}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.close()


@pytest.fixture
def site(made: Site) -> Site:
    """As it is declared, whatever the test before did."""
    made.own.clear()
    made.deploy(DECLARED)
    return made


ROWS = [
    "BALANCER  SERVICE  LISTEN         ADDRESS          SHARE  NEW  ACTIVE",
    f"lb1, lb2  web      {VIP}:80  {WEB1}:8080  50.0 %    0       0",
]


@pytest.mark.parametrize(
    "callback",
    [
        {},
        {"ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml"},
        {"ANSIBLE_STDOUT_CALLBACK": "minimal"},
        {"ANSIBLE_STDOUT_CALLBACK": "oneline"},
    ],
    ids=lambda found: next(iter(found.values()), "default"),
)
def test_the_table_is_text_with_every_callback(site: Site, callback: dict[str, str]) -> None:
    status, printed = site.playbook("status", **callback)
    assert status == 0, printed
    lines = printed.splitlines()
    start = lines.index(ROWS[0])
    assert lines[start : start + 2] == ROWS
    assert recap(printed) in ({}, {"lb1": False, "lb2": False, "localhost": False})


def test_a_host_that_drifts_or_does_not_forward_says_so(site: Site) -> None:
    site.lb1.run("nft", "delete", "table", "ip", "natlb")
    site.lb2.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    status, printed = site.playbook("status")
    assert status == 0, printed
    assert "drifted (lb1); drifted, not forwarding (lb2)" in printed
    assert "lb1, lb2: differs from the last declaration" in printed
    assert "lb2: the kernel does not forward packets" in printed
    status, printed = site.playbook("status", "-e", "natlb_fail_on_problems=true")
    assert status == 2
    assert recap(printed) == {"lb1": True, "lb2": True, "localhost": False}


def test_a_host_that_is_right_does_not_fail(site: Site) -> None:
    status, printed = site.playbook("status", "-e", "natlb_fail_on_problems=true")
    assert status == 0, printed


def test_a_dead_agent_is_a_problem(site: Site) -> None:
    """It is to run, and no systemd starts it here."""
    site.deploy([{**DECLARED[0], "health": {"type": "tcp"}}])
    status, printed = site.playbook("status")
    assert status == 0, printed
    assert "the agent does not answer" in printed
    status, printed = site.playbook("status", "-e", "natlb_fail_on_problems=true")
    assert status == 2, printed
    assert "the agent does not answer; its warning says where to look" in printed


def test_a_host_that_cannot_be_read_stands_in_the_table(site: Site) -> None:
    site.own["lb2"] = {"ansible_port": 1}
    status, printed = site.playbook("status")
    assert status == 4
    assert any(line.split() == ["lb2", "not", "read"] for line in printed.splitlines()), printed
    assert "lb1       ok         web" in printed


def test_an_egress_only_balancer_is_told_apart(site: Site) -> None:
    egress = [{"source": "10.0.0.0/24", "out_interface": "eth0"}]
    site.lb2.balance([], egress=egress)
    _status, printed = site.playbook("status")
    assert "lb2       egress only" in printed, printed
    assert "lb2: source NAT for 10.0.0.0/24 by eth0 (masquerade)" in printed


@pytest.mark.parametrize("become", [(), ("--become",)], ids=["without", "with --become"])
def test_status_becomes_root_where_it_has_to(site: Site, become: tuple[str, ...]) -> None:
    site.log_in_as_nobody()
    status, printed = site.playbook("status", *become)
    assert status == 0, printed
    assert ROWS[1] in printed


def test_a_root_without_sudo_needs_none(site: Site) -> None:
    nowhere = {"ansible_become_exe": "/nowhere/sudo"}
    site.own = dict.fromkeys(("lb1", "lb2"), nowhere)
    status, printed = site.playbook("status")
    assert status == 0, printed


def test_the_same_warning_is_shown_of_every_host(site: Site) -> None:
    site.deploy([{**DECLARED[0], "backends": []}])
    _status, printed = site.playbook("status")
    words = "service web: no backend can serve"
    assert printed.count(f"lb1, lb2: {words}") == 1, "in the table"
    for name in ("lb1", "lb2"):
        assert printed.replace(f"lb1, lb2: {words}", "").count(f"{name}: {words}") == 1, "as a warning of Ansible's"


def test_remarks_name_the_variables_of_the_role(site: Site) -> None:
    site.lb1.run("iptables-nft", "-P", "FORWARD", "DROP")
    try:
        _status, printed = site.playbook("status")
        printed = " ".join(printed.split())
        assert printed.count("; natlb_firewall: accept lets only them pass") == 2, "in the table and as a warning"
        assert "; firewall: accept" not in printed
    finally:
        site.lb1.run("iptables-nft", "-P", "FORWARD", "ACCEPT")


def test_what_ansible_warns_of_is_not_in_the_table(site: Site) -> None:
    found = {"ansible_python_interpreter": "auto", "ansible_interpreter_python_fallback": ["/usr/bin/python3"]}
    site.own = dict.fromkeys(("lb1", "lb2"), found)
    status, printed = site.playbook("status")
    assert status == 0, printed
    table = printed[printed.index("BALANCER") : printed.index("ok: [lb1]", printed.index("BALANCER"))]
    assert "interpreter" not in table
    assert "interpreter_discovery.html" in printed, "it is still a warning of Ansible's"


#: A callback that prints for programs, as those of ansible.posix do: every line is a document.
JSONL = """
import json
from ansible.plugins.callback import CallbackBase
DOCUMENTATION = "{name: jsonl, type: stdout, short_description: lines, description: [lines]}"

class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "stdout", "jsonl"

    def v2_runner_on_ok(self, result):
        self._display.display(json.dumps(result._result.get("lines", [])))
"""


def test_a_program_reads_nothing_but_json(site: Site) -> None:
    (site.folder / "jsonl.py").write_text(JSONL)
    environment = {"ANSIBLE_STDOUT_CALLBACK": "jsonl", "ANSIBLE_CALLBACK_PLUGINS": str(site.folder)}
    _status, printed = site.playbook("status", **environment)
    found = [json.loads(line) for line in printed.splitlines() if line and "WARNING" not in line]
    assert [lines[:2] for lines in found if lines] == [ROWS], printed


def test_programs_get_one_line_of_json(site: Site) -> None:
    status, printed = site.playbook("status", "-e", "natlb_format=json")
    assert status == 0, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("{")]
    found = json.loads(line)
    assert {name: (info["drift"], info["services"][0]["name"]) for name, info in found.items()} == {
        "lb1": (False, "web"),
        "lb2": (False, "web"),
    }
    assert "BALANCER" not in printed
    status, printed = site.playbook("status", "-e", "natlb_format=yaml")
    assert status != 0
    assert "natlb_format: 'yaml' is not a format (write table or json)" in " ".join(printed.split()), printed


def test_a_terminal_has_colours_and_a_file_has_none(site: Site) -> None:
    site.deploy([{**DECLARED[0], "backends": [BACKENDS[0], {**BACKENDS[1], "state": "drained"}]}])
    yellow = re.compile(rf"\033\[0;33m[^\n]*{WEB2}:8080[^\n]*\033\[0m")
    _status, coloured = site.playbook("status", ANSIBLE_NOCOLOR="0", ANSIBLE_FORCE_COLOR="1")
    assert yellow.search(coloured), coloured
    assert "\033" not in site.playbook("status", ANSIBLE_NOCOLOR="0")[1]
