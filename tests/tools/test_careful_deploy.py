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

from playbook_site import ROOT, VIP, WEB1, WEB2, Site, recap

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or None in map(shutil.which, ("nft", "iptables-nft")),
    reason="needs root, network namespaces, nft and iptables-nft",
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
MORE = service("more", 82, 8080, 8080)
#: Both backends get 1000 or 1001 of the connections in one of thirty runs, and then nothing is odd.
ODD = service("odd", 83, 8080, 8080, method="random")
ODD_PROBES = {"odd": {"tolerance": 0, "connections": 2001}}
#: It has fewer ports than connections would be opened, and closed ones keep theirs.
FEW = service("few", 85, 8080, 8080, snat_ports="20000-20039")
BOTH = [{"address": WEB1, "port": 8080}, {"address": "fd00::9", "port": 8080}]
#: What a balancer cannot reach by itself: its connections to networks are not balanced, the probes would take the room
#: of backends with a limit, and answers to an address of another host come there.
UNREACHED = [
    {"name": "whole", "listen": ["0.0.0.0/0:443", "[::/0]:443"], "backends": BOTH},
    {**service("network", 0, 8080), "listen": ["198.51.100.0/24:80"]},
    service("away", 86, 8080, 8080, snat="10.77.1.77"),
    {
        **(narrow := service("narrow", 84, 8080, 8080)),
        "backends": [{**b, "max_connections": 2} for b in narrow["backends"]],
    },
]
#: One balancer has each engine.
DECLARED = [WEB, ODD, FEW, *UNREACHED]
OF_IPTABLES = {"natlb_engine": "iptables", "natlb_services": [WEB, ODD]}


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
    made.own = {"lb2": dict(OF_IPTABLES)}
    made.variables = {"natlb_manage_packages": False, "natlb_engine": "nftables", "natlb_persist": False}
    made.variables.update(natlb_services=DECLARED, natlb_verify_probes=ODD_PROBES)
    return made


def states(site: Site) -> list[str]:
    return [member.state() for member in (site.lb1, site.lb2)]


@pytest.fixture(scope="module")
def _kept() -> dict[str, Any]:
    """What the first roll-out printed, and what it left."""
    return {}


@pytest.fixture
def rolled_out(site: Site, _kept: dict[str, Any]) -> str:
    """What was printed when all of it was rolled out; it is what both balancers have."""
    if not _kept or states(site) != _kept["left"]:
        status, printed = site.playbook("deploy")
        assert status == 0, printed
        _kept.update(printed=printed, left=states(site))
    return str(_kept["printed"])


def test_each_engine_is_verified_by_its_own_connections(site: Site, rolled_out: str) -> None:
    assert recap(rolled_out) == {"lb1": False, "lb2": False, "localhost": False}
    assert not site.lb1.waiting()
    assert not site.lb2.waiting()
    for name in ("lb1", "lb2"):
        assert re.search(rf"^(ok|changed): \[{name}\] => \(item=web at {VIP}:80\)", rolled_out, re.MULTILINE), (
            rolled_out
        )
    assert "table ip natlb" not in site.lb2.state()
    assert "NATLB" in site.lb2.state()


def test_what_a_verified_balancer_costs(rolled_out: str) -> None:
    """Tasks that go over the connection, beside one for each address: as docs/fleet.md says."""
    first = rolled_out.index("TASK [Verify those that have changed]")
    verified = rolled_out[first : rolled_out.index("TASK [Fail where a balancer")]
    asked = [task for task in verified.split("TASK [") if re.match(r"(Read the balancer|Make the changes)\S* ?", task)]
    done = [task.partition("]")[0] for task in asked if re.search(r"^(ok|changed): \[lb1\]", task, re.MULTILINE)]
    assert done == ["Read the balancer", "Read the balancer", "Make the changes final, or take them back"]
    assert verified.count("=> (item=") == len([WEB, ODD, FEW])
    assert "costs 3 tasks more" in (ROOT / "docs" / "fleet.md").read_text()


def test_what_chance_may_bring_undoes_nothing(rolled_out: str) -> None:
    for line in re.findall("^lb[12]: .*the spread of.*", rolled_out, re.MULTILINE):
        # A SYN that was repeated on a busy machine counts twice, and then that is the reason.
        reasons = "the method random leaves it to chance|other connections were counted as well"
        assert re.search(rf"\(this undoes nothing: (?:{reasons})\)$", line), line


def test_what_a_balancer_cannot_reach_by_itself_is_left_out(site: Site, rolled_out: str) -> None:
    assert not re.search(r"item=(whole|network|away|narrow) at", rolled_out)
    assert "lb1: away: not probed, as answers to its source address 10.77.1.77 come to another host now" in rolled_out
    assert "198.51.100" in site.lb1.state()


@pytest.mark.usefixtures("rolled_out")
def test_a_canary_that_cannot_serve_goes_back_and_nobody_follows(site: Site) -> None:
    before = states(site)
    site.variables["natlb_services"] = [*DECLARED, DEAD]
    status, printed = site.playbook("deploy")
    assert status == 2
    assert recap(printed) == {"lb1": True, "lb2": False, "localhost": False}
    assert f"dead: backend b1 does not answer lb1 (connect: Connection refused at {WEB2}:4)" in printed
    assert "lb1: went back to its former rules" in printed
    assert not site.lb1.waiting()
    assert states(site) == before
    site.variables["natlb_services"] = DECLARED
    status, printed = site.playbook("deploy", "--limit", "lb1")
    assert status == 0, printed
    assert "changed=0" in printed


@pytest.mark.usefixtures("rolled_out")
def test_a_batch_goes_back_as_a_whole(site: Site) -> None:
    """lb1 is as it should be, and lb2 cannot be verified."""
    before = states(site)
    site.variables["natlb_services"] = [*DECLARED, MORE]
    site.own["lb2"].update(natlb_services=[WEB, ODD, MORE], natlb_verify_connections="{{ natlb_read.engine }}")
    status, printed = site.playbook("deploy", "-e", "natlb_serial=2")
    assert status == 2
    assert recap(printed) == {"lb1": True, "lb2": True, "localhost": False}
    assert 'lb2: could not be verified: the task "Open connections from the balancer itself" failed: ' in printed
    for name in ("lb1", "lb2"):
        assert f"{name}: went back to its former rules" in printed
    assert states(site) == before


@pytest.mark.parametrize("from_facts", ["false", "true"])
@pytest.mark.usefixtures("rolled_out")
def test_other_slots_on_the_second_are_found_before_any_host_is_changed(site: Site, from_facts: str) -> None:
    """Also where declarations are made from facts, and so are checked once these are gathered."""
    name = "{{ ansible_facts.system | lower }}" if from_facts == "true" else "web"
    site.own["lb2"]["natlb_services"] = [{**service("web", 80, 8080), "name": name}]
    before = site.lb1.state()
    status, printed = site.playbook("deploy", "-e", f"natlb_gather_facts={from_facts}")
    assert status == 2
    told = ("linux", " (web there)") if from_facts == "true" else ("web", "")
    assert f"{told[0]}: lb2 would have other slots for tcp {VIP}:80 than lb1{told[1]}, so" in printed
    assert "Deploy the balancers" not in printed
    assert site.lb1.state() == before


def test_a_hash_in_two_engines_is_an_error_at_the_end(site: Site) -> None:
    """Which engine `auto` takes is known then."""
    site.variables["natlb_services"] = [{**WEB, "method": "source_hash"}]
    del site.own["lb2"]["natlb_services"]
    status, printed = site.playbook("deploy", "-e", "natlb_verify_each=false")
    assert status == 2
    told = " ".join(printed.split())
    assert "engine: nftables on lb1, iptables on lb2" in told
    assert "web: lb2 has it in iptables, lb1 in nftables, and these pick other backends with the method" in told


@pytest.mark.usefixtures("rolled_out")
def test_nothing_at_all_may_be_declared(site: Site) -> None:
    site.variables["natlb_services"] = []
    status, printed = site.playbook("deploy", "--limit", "lb1")
    assert status == 0, printed
    assert not site.lb1.waiting()
    assert VIP not in site.lb1.state()
    status, printed = site.playbook("deploy", "--limit", "lb1")
    assert "changed=0" in printed


def test_a_standby_comes_first_and_what_is_declared_is_taken_away(site: Site) -> None:
    """The role failover says that the program is not there by which keepalived asks: nothing is kept on these hosts. A
    removal takes its configuration away as well. It gathers no facts, of which one part of the declaration is made."""
    shared = {"addresses": [f"{VIP}/24"], "interface": "eth0", "router_id": 51}
    site.variables.update(natlb_failover_addresses=[shared], natlb_failover_unicast=False)
    site.lb1.run("ip", "address", "add", f"{VIP}/24", "dev", "eth0")
    try:
        status, printed = site.playbook("deploy")
        assert "\n0 of 2 balancers are done, next: lb2\n" in printed, printed
        assert status == 2
        assert recap(printed) == {"lb1": False, "lb2": True, "localhost": False}
        assert "/usr/local/sbin/natlb is missing, which tells whether this host is ready" in printed, printed
        site.variables["natlb_services_facts"] = "{{ [{'listen': ansible_facts.default_ipv4.address ~ ':80'}] }}"
        status, printed = site.playbook("remove")
        assert status == 0, printed
    finally:
        site.lb1.run("ip", "address", "delete", f"{VIP}/24", "dev", "eth0")
    assert printed.count("Remove the configuration") == 1
    assert not site.lb1.waiting()
    assert "natlb" not in "".join(states(site)).lower()


def test_what_is_announced_is_checked_first_and_follows_the_rules(site: Site) -> None:
    """The role anycast says that the program is not there which it asks: nothing is kept on these hosts."""
    fast = ("--limit=lb1,localhost", "-e", "natlb_verify_each=false")
    site.variables["natlb_anycast_neighbors"] = [{"address": "192.0.2.1", "as": 64512}]
    status, printed = site.playbook("deploy", *fast)
    assert status == 2
    assert "natlb_anycast_as: is not set for this host" in printed
    assert "Deploy the balancers" not in printed
    site.variables["natlb_anycast_as"] = 64513
    status, printed = site.playbook("deploy", *fast)
    assert status == 2
    assert "/usr/local/sbin/natlb is missing, which tells whether this host is ready" in printed, printed
    assert (
        printed.index("Deploy the balancers")
        < printed.index("natlb.netfilter.balancer : ")
        < printed.index("natlb.netfilter.anycast : ")
    )
