# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook deploy verifies each balancer by itself: a canary that cannot serve goes back, and nobody follows it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from playbook_site import VIP, WEB1, WEB2, Site, recap

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)
SERVER = """
import socket
kept = []
server = socket.create_server(("", 8080), backlog=500)
print("listening")
while True:
    connection, _peer = server.accept()
    kept.append(connection)
"""


def service(name: str, port: int, *inside: int, **more: Any) -> dict[str, Any]:
    backends = [
        {"name": f"b{number}", "address": (WEB1, WEB2)[number % 2], "port": port} for number, port in enumerate(inside)
    ]
    return {"name": name, "listen": f"{VIP}:{port}", "backends": backends, **more}


WEB = service("web", 80, 8080, 8080)
#: Nobody answers at one of its backends.
DEAD = service("dead", 81, 8080, 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        for member in (site.web1, site.web2):
            site.serve(member, SERVER)
        for member in (site.lb1, site.lb2):
            # As with a network of its own: the balancer's own connections to the addresses leave by eth0.
            member.run("ip", "route", "replace", f"{VIP}/31", "dev", "eth0")
        yield site
    finally:
        site.close()


@pytest.fixture
def site(made: Site) -> Site:
    made.own.clear()
    made.variables = {"natlb_manage_packages": False, "natlb_engine": "nftables", "natlb_persist": False}
    return made


def deployed(site: Site, services: list[dict[str, Any]], *arguments: str) -> tuple[int, str]:
    site.variables["natlb_services"] = services
    return site.playbook("deploy", *arguments)


def test_a_canary_that_cannot_serve_goes_back_and_nobody_follows(site: Site) -> None:
    status, printed = deployed(site, [WEB])
    assert status == 0, printed
    before = [member.state() for member in (site.lb1, site.lb2)]
    status, printed = deployed(site, [WEB, DEAD])
    assert status == 2
    assert recap(printed) == {"lb1": True, "lb2": False, "localhost": False}
    assert f"dead: backend b1 does not answer lb1 (connect: Connection refused at {WEB2}:4)" in printed
    assert "lb1: went back to its former rules" in printed
    assert not site.lb1.waiting()
    assert [member.state() for member in (site.lb1, site.lb2)] == before
    status, printed = deployed(site, [WEB])
    assert status == 0, printed
    assert "changed=0" in printed


def test_a_batch_goes_back_as_a_whole(site: Site) -> None:
    """lb1 is as it should be, and lb2 cannot reach a backend."""
    assert deployed(site, [WEB])[0] == 0
    before = [member.state() for member in (site.lb1, site.lb2)]
    site.lb2.run("ip", "route", "replace", "unreachable", f"{WEB2}/32")
    try:
        status, printed = deployed(site, [WEB, service("more", 82, 8080, 8080)], "-e", "natlb_serial=2")
    finally:
        site.lb2.run("ip", "route", "delete", "unreachable", f"{WEB2}/32")
    assert status == 2
    assert recap(printed) == {"lb1": True, "lb2": True, "localhost": False}
    assert "more: backend b1 does not answer lb2" in printed
    assert "lb1: went back to its former rules" in printed
    assert [member.state() for member in (site.lb1, site.lb2)] == before


def test_what_chance_may_bring_undoes_nothing(site: Site) -> None:
    """Both backends get 1000 or 1001 of the connections in one of thirty runs, and then nothing is odd."""
    site.variables["natlb_verify_probes"] = {"odd": {"tolerance": 0, "connections": 2001}}
    status, printed = deployed(site, [WEB, service("odd", 83, 8080, 8080, method="random")])
    assert status == 0, printed
    assert not site.lb1.waiting()
    for line in re.findall("^lb[12]: .*the spread of.*", printed, re.MULTILINE):
        # A SYN that was repeated on a busy machine counts twice, and then that is the reason.
        reasons = "the method random leaves it to chance|other connections were counted as well"
        assert re.search(rf"\(this undoes nothing: (?:{reasons})\)$", line), line


def test_what_a_balancer_cannot_reach_by_itself_is_left_out(site: Site) -> None:
    """Its connections to a network are not balanced, and the probes would take the room of backends with a limit."""
    both = [{"address": WEB1, "port": 8080}, {"address": "fd00::9", "port": 8080}]
    whole = {"name": "whole", "listen": ["0.0.0.0/0:443", "[::/0]:443"], "backends": both}
    network = {**service("network", 0, 8080), "listen": ["198.51.100.0/24:80"]}
    narrow = service("narrow", 84, 8080, 8080)
    for backend in narrow["backends"]:
        backend["max_connections"] = 2
    status, printed = deployed(site, [WEB, whole, network, narrow])
    assert status == 0, printed
    assert recap(printed) == {"lb1": False, "lb2": False, "localhost": False}
    assert not site.lb1.waiting()
    assert "198.51.100" in site.lb1.state()


def test_nothing_at_all_may_be_declared(site: Site) -> None:
    assert deployed(site, [WEB])[0] == 0
    status, printed = deployed(site, [])
    assert status == 0, printed
    assert not site.lb1.waiting()
    assert VIP not in site.lb1.state() + site.lb2.state()
    status, printed = deployed(site, [])
    assert "changed=0" in printed


def test_a_removal_reads_no_declaration(site: Site) -> None:
    """It gathers no facts, of which this one is made."""
    assert deployed(site, [WEB])[0] == 0
    site.variables["natlb_services_facts"] = "{{ [{'listen': ansible_facts.default_ipv4.address ~ ':80'}] }}"
    status, printed = site.playbook("remove")
    assert status == 0, printed
    assert not site.lb1.waiting()
    assert "natlb" not in site.lb1.state() + site.lb2.state()


def test_a_verification_that_cannot_be_done_says_so(site: Site) -> None:
    assert deployed(site, [WEB])[0] == 0
    before = site.lb1.state()
    site.variables["natlb_verify_connections"] = "{{ natlb_read.engine }}"
    status, printed = deployed(site, [WEB, service("more", 82, 8080, 8080)])
    assert status == 2
    assert 'lb1: could not be verified: the task "Open connections from the balancer itself" failed: ' in printed
    assert "lb1: went back to its former rules" in printed
    assert site.lb1.state() == before


def test_other_slots_on_the_second_are_found_before_any_host_is_changed(site: Site) -> None:
    site.own["lb2"] = {"natlb_services": [service("web", 80, 8080)]}
    before = site.lb1.state()
    status, printed = deployed(site, [WEB])
    assert status == 2
    assert f"web: lb2 would have other slots for tcp {VIP}:80 than lb1" in printed
    assert "Deploy the balancers" not in printed
    assert site.lb1.state() == before


def test_a_standby_comes_first_and_the_role_failover_runs(site: Site) -> None:
    """The role says that the program is not there by which keepalived asks: nothing is kept on these hosts."""
    shared = {"addresses": [f"{VIP}/24"], "interface": "eth0", "router_id": 51}
    site.variables.update(natlb_failover_addresses=[shared], natlb_failover_unicast=False)
    site.lb1.run("ip", "address", "add", f"{VIP}/24", "dev", "eth0")
    try:
        status, printed = deployed(site, [WEB])
        assert "\n0 of 2 balancers are done, next: lb2\n" in printed, printed
        assert status == 2
        assert recap(printed) == {"lb1": False, "lb2": True, "localhost": False}
        assert "/usr/local/sbin/natlb is missing, which tells whether this host is ready" in printed
        status, printed = site.playbook("remove")
        assert status == 0, printed
    finally:
        site.lb1.run("ip", "address", "delete", f"{VIP}/24", "dev", "eth0")
    assert printed.count("Remove the configuration") == 1
    assert "natlb" not in site.lb1.state() + site.lb2.state()
