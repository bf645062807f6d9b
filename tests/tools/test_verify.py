# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook verify, run on two balancers that are network namespaces, with servers as people have them."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from playbook_site import OTHER, VIP, WEB1, WEB2, Site, recap

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)

#: None of them says who it is: Python's web server on port 8080, one on port 5432 that waits for its clients to speak
#: as databases do, a sink of datagrams on port 514, and one on port 9000 that says its name.
SERVERS = """
import http.server, socket, sys, threading

class Pages(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

def accept(port, text):
    kept = []
    server = socket.create_server(("", port), backlog=500)
    def run():
        while True:
            connection, _peer = server.accept()
            if text:
                connection.sendall(text)
                connection.close()
            else:
                kept.append(connection)
    threading.Thread(target=run, daemon=True).start()

def sink(port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", port))
    def run():
        while True:
            sock.recv(4096)
    threading.Thread(target=run, daemon=True).start()

accept(5432, b"")
accept(9000, NAME)
sink(514)
pages = http.server.ThreadingHTTPServer(("", 8080), Pages)
print("listening")
pages.serve_forever()
"""


def service(name: str, port: int, inside: int, **more: Any) -> dict[str, Any]:
    backends = [{"name": "web1", "address": WEB1, "port": inside}, {"name": "web2", "address": WEB2, "port": inside}]
    return {"name": name, "listen": f"{VIP}:{port}", "backends": backends, **more}


WEB = service("web", 80, 8080)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        for member in (site.web1, site.web2):
            site.serve(member, SERVERS.replace("NAME", repr(f"{member.name}\n".encode())))
        yield site
    finally:
        site.close()


@pytest.fixture
def site(made: Site) -> Site:
    """As it is declared, whatever the test before did: lb1 has the addresses, lb2 is its standby."""
    made.own.clear()
    made.variables = {"natlb_verify_connections": 60, "natlb_verify_probes": {}}
    made.by(made.lb1)
    return made


def verified(site: Site, services: list[dict[str, Any]], *arguments: str) -> tuple[int, str]:
    """Both balancers do as the inventory says."""
    site.deploy(services)
    site.variables["natlb_services"] = services
    return site.playbook("verify", *arguments)


def test_servers_that_do_not_say_who_they_are(site: Site) -> None:
    services = [
        WEB,
        service("db", 5432, 5432),
        service("log", 514, 514, protocol="udp", method="random"),
        service("sticky", 81, 8080, affinity="1h"),
        service("hash", 82, 8080, method="source_hash"),
        service("slow", 83, 8080, new_connections_per_second=20),
        service("sctp", 84, 8080, protocol="sctp"),
        service("none", 85, 8080, backends=[]),
    ]
    status, printed = verified(site, services)
    assert status == 0, printed
    # Those of the standby's turn came here as well.
    for name, target in (("web", f"{VIP}:80"), ("db", f"{VIP}:5432")):
        assert f"lb1: {name}: web1 60, web2 60 (120 of 120 connections to {target} succeeded)" in printed
    for name in ("log", "sticky", "hash"):
        assert f"lb1: {name}: web1 " in printed
    for name in ("web", "db", "log", "sticky", "hash", "slow"):
        assert f"lb2: {name}: carries no traffic now" in printed
    assert "lb1: sctp: not probed, as only TCP and UDP can be" in printed
    assert "lb1: none: not probed, as no backend can serve" in printed


def test_a_standby_without_rules_is_found_out(site: Site) -> None:
    """The connections come about: lb1 answers the address."""
    site.deploy([WEB])
    site.variables["natlb_services"] = [WEB]
    site.lb2.run("nft", "flush", "ruleset")
    site.lb2.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
    status, printed = site.playbook("verify")
    assert status == 2
    assert recap(printed) == {"lb1": False, "lb2": True, "localhost": False}
    assert "lb2: its rules differ from the last declaration" in printed
    assert "lb2: the kernel does not forward packets" in printed


def test_a_host_that_is_no_balancer_answers_the_address(site: Site) -> None:
    services = [{**WEB, "listen": f"{OTHER}:8080"}]
    site.web1.run("ip", "address", "replace", f"{OTHER}/32", "dev", "lo")
    site.by(site.web1, f"{OTHER}/32")
    status, printed = verified(site, services)
    site.web1.run("ip", "address", "delete", f"{OTHER}/32", "dev", "lo")
    site.by(site.lb1, f"{OTHER}/32")
    assert status == 2
    assert f"120 connections to {OTHER}:8080 succeeded, and lb1 with lb2 counted 0: another host answers" in printed


def test_a_standby_alone_is_not_taken_for_right(site: Site) -> None:
    status, printed = verified(site, [WEB], "--limit", "lb2,localhost")
    assert status == 2
    assert (
        "and lb2 counted 0: another host answers the address (if that is a balancer, verify it in the same" in printed
    )


def test_a_refused_connection_names_its_backend_and_hides_no_other_service(site: Site) -> None:
    dead = service("dead", 81, 8080)
    dead["backends"][1] = {**dead["backends"][1], "port": 4}
    site.variables["natlb_verify_probes"] = {"odd": {"source": "192.0.2.99"}}
    status, printed = verified(site, [service("odd", 82, 8080), dead, WEB])
    assert status == 2
    assert "lb1: dead: 60 of 120 connections" in printed, printed
    assert f"lb1: dead: backend web2 does not answer lb1 (connect: Connection refused at {WEB2}:4)" in printed
    assert f"lb1: odd: {VIP}:82 could not be probed: source: 192.0.2.99 cannot be used" in printed
    assert "lb1: web: web1 60, web2 60" in printed


def test_a_balancer_that_spreads_otherwise(site: Site) -> None:
    """Its rules and its record agree, and are not what they were when it was asked for the first time."""
    site.variables["natlb_verify_probes"] = {"web": {"tolerance": 0}}
    odd = {**WEB, "method": "random"}
    site.variables["natlb_verify_connections"] = 301
    _status, printed = verified(site, [odd])
    assert "connections that this balancer counted is not the expected one (tolerance 0)" in printed


def test_backends_that_name_themselves_are_asked_where_that_is_said(site: Site) -> None:
    named = service("named", 90, 9000)
    site.variables["natlb_verify_probes"] = {"named": {"identify": "^(\\w+)", "tolerance": 0}}
    status, printed = verified(site, [named])
    assert status == 0, printed
    site.variables["natlb_verify_probes"] = {"named": {"names": {"web1": "alpha"}}}
    status, printed = verified(site, [named])
    assert status == 2
    assert f"lb1: named: {VIP}:90 was answered by web1, not by alpha, web2" in printed


@pytest.mark.parametrize(
    ("become", "inventory"),
    [((), {}), (("--become",), {"ansible_become": True})],
    ids=["nobody says it", "everybody says it"],
)
def test_balancers_become_root_and_the_controller_does_not(
    site: Site, become: tuple[str, ...], inventory: dict[str, Any]
) -> None:
    site.log_in_as_nobody()
    site.variables.update(inventory, ansible_become_exe="/nowhere/sudo")
    status, printed = verified(site, [WEB], *become)
    assert status == 0, printed
    assert "lb1: web: web1 60, web2 60" in printed


def test_a_service_that_only_one_network_may_use_is_probed_from_there(site: Site) -> None:
    closed = service("closed", 81, 8080, allow_from=[f"{WEB1}/32"])
    site.web1.run("ip", "route", "replace", f"{VIP}/32", "via", site.lb1.address)
    site.variables["natlb_verify_probes"] = {"closed": {"from": "web1"}}
    status, printed = verified(site, [WEB, closed])
    assert status == 0, printed
    assert "lb1: closed: web1 60, web2 60" in printed
    site.variables["natlb_verify_probes"] = {"closed": {"from": "wbe1", "tolerence": 0}}
    status, printed = site.playbook("verify")
    assert status == 2
    assert "natlb_verify_probes.closed.from: no host 'wbe1' is in the inventory (did you mean web1?)" in printed
    assert "natlb_verify_probes.closed.tolerence: no such option (did you mean tolerance?)" in printed


def test_options_for_a_service_of_one_balancer(site: Site) -> None:
    site.variables["natlb_verify_probes"] = {"more": {"timeout": "10s"}}
    more = service("more", 81, 8080)
    site.deploy([WEB])
    site.deploy([WEB, more], site.lb1)
    status, printed = site.playbook("verify")
    assert status == 0, printed
    site.variables["natlb_verify_probes"] = {"moer": {"timeout": "1s"}}
    status, printed = site.playbook("verify")
    assert status == 2
    assert "there are options for moer, but no balancer has such a service" in printed


def test_emptiness_is_no_proof(site: Site) -> None:
    for member in (site.lb1, site.lb2):
        member.balance([], state="absent")
    status, printed = site.playbook("verify")
    assert status == 2
    assert "nothing is declared on this host, so nothing was verified" in printed
