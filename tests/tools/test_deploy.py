# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks as people run them, up to where a host would be touched: nothing answers at its address."""

from __future__ import annotations

import os
import pathlib
import re
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from processes import said

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Playbooks that begin with a look at the whole inventory.
FINDING_HOSTS = sorted(
    path.stem for path in (ROOT / "playbooks").glob("*.yml") if "tasks/find_hosts.yml" in path.read_text()
)
WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}]}


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port at which nobody listens, for as long as the tests run."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


class Site:
    """An inventory with lb1 and lb2 in the group balancers, both with `variables`."""

    def __init__(self, folder: pathlib.Path, port: int) -> None:
        self.folder = folder
        self.host = {"ansible_host": "127.0.0.1", "ansible_port": port, "ansible_ssh_common_args": "-F none"}

    def write(self, group: str = "balancers", lb2: dict[str, Any] | None = None, **variables: Any) -> None:
        hosts = {"lb1": dict(self.host), "lb2": {**self.host, **(lb2 or {})}}
        inventory = {group: {"hosts": hosts, "vars": variables}}
        (self.folder / "inventory.yml").write_text(yaml.safe_dump(inventory))

    def run(self, name: str, *arguments: str) -> tuple[int, str]:
        """A playbook of the collection: exit status and all that was printed."""
        return self.play(f"natlb.netfilter.{name}", *arguments)

    def play(self, playbook: str, *arguments: str) -> tuple[int, str]:
        """The same of any playbook."""
        argv = [str(ROOT / "tools" / "run"), "ansible-playbook", "-i", "inventory.yml", playbook]
        environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_TIMEOUT": "2"}
        return said([*argv, *arguments], self.folder, environment)


@pytest.fixture
def site(tmp_path: pathlib.Path, closed_port: int) -> Site:
    return Site(tmp_path, closed_port)


def messages(printed: str) -> dict[str, str]:
    """What failed, by host."""
    return dict(re.findall(r'^fatal: \[(\w+)\].*?"msg": "((?:[^"\\]|\\.)*)"', printed, re.MULTILINE))


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["run", "check"])
def test_errors_of_all_hosts_come_before_any_connection(site: Site, check: tuple[str, ...]) -> None:
    bad = [{**WEB, "backends": [{"address": "10.0.0.3", "port": 99999}]}, {**WEB, "name": "b", "listen": "nowhere"}]
    site.write(lb2={"natlb_services": bad, "natlb_engine": "ipfw"}, natlb_services=[WEB])
    status, printed = site.run("deploy", *check)
    found = messages(printed)
    assert status == 2
    assert list(found) == ["lb2"]
    for error in ("natlb_services[0].backends[0].port: 99999", "natlb_services[1].listen: 'nowhere'", "natlb_engine: "):
        assert error in found["lb2"]
    assert "UNREACHABLE" not in printed


@pytest.mark.parametrize(
    ("variables", "arguments", "complaint"),
    [
        ({}, (), "natlb_services: is not set for this host ("),
        ({"natlb_service": [WEB]}, (), "natlb_services: is not set for this host, but natlb_service is ("),
        ({"natlb_services": None}, (), "natlb_services: is set to nothing"),
        ({"natlb_services": [WEB], "natlb_egress": None}, (), "natlb_egress: has no value"),
        ({"natlb_services": [WEB], "natlb_state": "presnt"}, (), "natlb_state: 'presnt' is not a choice here"),
        ({"natlb_services": [WEB], "natlb_rollback": 5}, (), "natlb_rollback: no role or playbook knows this variable"),
        ({"natlb_services": "{{ groups.web | default([]) }}"}, (), "gives an empty list"),
        ({"natlb_services": "{{ groups.web }}"}, (), "natlb_services: cannot be read: "),
    ],
)
def test_what_is_not_there_by_accident(
    site: Site, variables: dict[str, Any], arguments: tuple[str, ...], complaint: str
) -> None:
    site.write(**variables)
    status, printed = site.run("deploy", "--check", *arguments)
    assert status == 2
    assert set(messages(printed)) == {"lb1", "lb2"}
    assert printed.count(complaint) >= 2
    assert "UNREACHABLE" not in printed


def test_variables_of_a_role_in_a_play_are_looked_at(site: Site) -> None:
    site.write(natlb_services=[WEB])
    role = {"role": "natlb.netfilter.balancer", "vars": {"natlb_egres": []}}
    (site.folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": [role]}]))
    _status, printed = site.play("play.yml")
    assert "did you mean natlb_egress?" in printed
    assert "UNREACHABLE" not in printed


@pytest.mark.parametrize("playbook", FINDING_HOSTS)
def test_a_typing_error_in_an_extra_variable_is_told_first(site: Site, playbook: str) -> None:
    site.write(natlb_services=[WEB])
    status, printed = site.run(playbook, "-e", "natlb_verify_conections=1")
    assert status == 2
    assert list(messages(printed)) == ["localhost"]
    assert "did you mean natlb_verify_connections?" in messages(printed)["localhost"]
    assert "UNREACHABLE" not in printed


@pytest.mark.parametrize("playbook", FINDING_HOSTS)
def test_no_balancers_is_an_error(site: Site, playbook: str) -> None:
    site.write(group="ballancers", natlb_services=[WEB])
    status, printed = site.run(playbook)
    assert status == 2
    assert "natlb_hosts: no host of the inventory is in balancers" in printed
    assert "the groups are ballancers)" in printed


@pytest.mark.parametrize("where", ["inventory", "extra"])
def test_settings_of_the_run_are_read_wherever_they_are(site: Site, where: str) -> None:
    given = {"natlb_hosts": "front", "natlb_serial": 1}
    extra = [f"--extra-vars={name}={value}" for name, value in given.items()] if where == "extra" else []
    site.write(group="front", natlb_services=[WEB], **({} if extra else given))
    status, printed = site.run("deploy", "--check", *extra)
    assert status == 2
    assert set(messages(printed)) == {"lb1", "lb2"}
    assert "lb2 could not be reached, so nothing was changed on it" in messages(printed)["lb2"]


@pytest.mark.parametrize("where", ["inventory", "extra"])
def test_settings_of_the_run_that_are_wrong_are_told_first(site: Site, where: str) -> None:
    given = {"natlb_serial": "foo", "natlb_max_fail_percentage": 200, "natlb_verify_from": "lb3"}
    extra = [f"--extra-vars={name}={value}" for name, value in given.items()] if where == "extra" else []
    site.write(natlb_services=[WEB], **({} if extra else given))
    for playbook in ("deploy", "verify"):
        status, printed = site.run(playbook, *extra)
        assert status == 2, printed
        (told,) = messages(printed).values()
        for complaint in ("natlb_serial: 'foo' is", "natlb_max_fail_percentage: ", "natlb_verify_from: no host 'lb3'"):
            assert complaint in told
        assert "UNREACHABLE" not in printed


def test_two_values_for_one_run_are_an_error(site: Site) -> None:
    site.write(lb2={"natlb_serial": 2}, natlb_services=[WEB], natlb_serial=1)
    status, printed = site.run("deploy")
    assert status == 2
    assert "natlb_serial: is 1 for lb1 and 2 for lb2" in printed


def test_a_declaration_from_facts_is_checked_before_any_host_is_changed(site: Site) -> None:
    """This machine is lb2, and is asked for its facts alone. Who cannot be reached has none, and stops nobody."""
    services = [{**WEB, "name": "{{ ansible_facts.system }}"}]
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    site.write(lb2=here, natlb_services=services, natlb_gather_facts=True)
    status, printed = site.run("deploy", "--check")
    assert status == 2
    assert "natlb_services[0].name: 'Linux' is not a name" in messages(printed)["lb2"]
    assert "Deploy the balancers" not in printed


def test_a_limit_holds(site: Site) -> None:
    site.write(natlb_services=[WEB])
    status, printed = site.run("deploy", "--limit", "lb2")
    assert status == 2
    assert set(messages(printed)) == {"lb2"}
