# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks drain and restore, run on two balancers that are network namespaces."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from playbook_site import OTHER, VIP, WEB1, WEB2, Site, recap

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)

#: Says its name at once, and ends the connection when the client does.
SERVER = """
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(NAME)
        self.request.recv(1)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 256
server = Server(("", 9000), Handler)
print("listening")
server.serve_forever()
"""
#: Opens connections one after another, and prints who answered. With HOLD they stay until its input ends.
CLIENT = """
import json, socket, sys
target, count, hold = sys.argv[1], int(sys.argv[2]), len(sys.argv) > 3
kept, names = [], []
for _ in range(count):
    sock = socket.create_connection((target, 9000), 5)
    names.append(sock.recv(64).decode())
    if hold:
        kept.append(sock)
    else:
        sock.close()
print(json.dumps(names), flush=True)
if hold:
    sys.stdin.read()
"""
OVERRIDES = "/etc/natlb/overrides.json"
BACKENDS = [{"name": "web1", "address": WEB1, "port": 9000}, {"name": "web2", "address": WEB2, "port": 9000}]
#: One address by each of the balancers.
WEB = {"name": "web", "listen": [f"{VIP}:9000", f"{OTHER}:9000"], "backends": BACKENDS}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        for member in site.webs:
            site.serve(member, SERVER.replace("NAME", repr(member.name.encode())))
        site.by(site.lb1, f"{VIP}/32")
        site.by(site.lb2, f"{OTHER}/32")
        yield site
    finally:
        site.close()


@pytest.fixture
def site(made: Site) -> Site:
    """Both balancers as they are declared, and nothing drained."""
    made.own.clear()
    made.variables.clear()
    for member in (made.lb1, made.lb2):
        member.run("rm", "-f", OVERRIDES)
    made.deploy([WEB])
    return made


def client(site: Site, target: str, count: int, *words: str) -> subprocess.Popen[str]:
    argv = ["nsenter", f"--target={site.hub}", "--net", sys.executable, "-c", CLIENT, target, str(count), *words]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def answers(site: Site) -> list[Counter[str]]:
    """Who answers, by each of the balancers."""
    found = []
    for target in (VIP, OTHER):
        with client(site, target, 4) as process:
            assert process.stdout
            found.append(Counter(json.loads(process.stdout.readline())))
    return found


def by_hand(site: Site, state: str) -> None:
    """An order of an operator about web2 on each balancer, with no reason."""
    options = {"backend": "web2", "service": None, "state": state, "weight": None, "reason": "", "min_active": 1}
    options |= dict.fromkeys(("wait", "close_connections", "allow_missing", "check"), False) | {"wait_timeout": 0}
    for member in (site.lb1, site.lb2):
        member.plan("draining", "backend", **options)


BOTH, ONLY_WEB1 = Counter(web1=2, web2=2), Counter(web1=4)


def left(printed: str) -> dict[str, str]:
    """By balancer, what the playbook says is left of web2."""
    return dict(re.findall(r"^(\w+): web2 of web is drained; connections left after [\d.]+ s: (.*)$", printed, re.M))


def test_drained_on_all_balancers_and_brought_back(site: Site) -> None:
    """A connection of web2 by lb1 stays until it is ended."""
    told = ["-e", "natlb_backend=web2"]
    with client(site, VIP, 2, "hold") as process:
        assert process.stdout
        assert json.loads(process.stdout.readline()) == ["web1", "web2"]
        status, printed = site.playbook("drain", *told, "--check", "--diff")
        assert status == 0, printed
        assert printed.count(f"+{WEB2}:9000 of web: drained") == 2, "once for each balancer"
        assert "lb1: web2 of web would be drained\n" in printed
        assert answers(site) == [BOTH, BOTH]

        status, printed = site.playbook("drain", *told, "-e", "natlb_wait_timeout=1", "-e", "natlb_reason=kernel")
        assert status == 0, printed
        assert left(printed) == {"lb1": "1", "lb2": "0"}
        assert re.findall(r"^.*waiting up to.*$", printed, re.MULTILINE) == [
            "lb1: 1 connections to web2; waiting up to 1 s for their end"
        ]
        assert answers(site) == [ONLY_WEB1, ONLY_WEB1]
        assert '"reason":"kernel"' in site.lb2.run("cat", OVERRIDES).replace(" ", "")

        closing = ["-e", "natlb_wait_timeout=0", "-e", "natlb_close_connections=true", "-e", "natlb_reason=kernel"]
        status, printed = site.playbook("drain", *told, *closing)
        assert left(printed) == {"lb1": "0 (1 ended)", "lb2": "0"}
        assert printed.count("changed=1") == 1, "what is so already is no failure and no change"

    status, printed = site.playbook("restore", "-e", f"natlb_backend={WEB2}:9000")
    assert status == 0, printed
    assert f"lb2: {WEB2}:9000 of web is as declared again" in printed
    assert answers(site) == [BOTH, BOTH]


def test_a_restore_for_one_reason_leaves_the_drain_of_an_operator(site: Site) -> None:
    """As extensions/eda/rulebooks/alerts.yml runs the playbooks, with what it passes to them."""
    (rules,) = yaml.safe_load((Path(__file__).parents[2] / "extensions/eda/rulebooks/alerts.yml").read_text())
    by_playbook = {
        action["run_playbook"]["name"]: action["run_playbook"]["extra_vars"]
        for rule in rules["rules"]
        for action in rule["actions"]
        if "run_playbook" in action
    }
    alert = {"natlb_backend": "web2", "natlb_service": "web", "natlb_min_active": 1}
    alerts = []
    for name in ("natlb.netfilter.drain", "natlb.netfilter.restore"):
        passed = {**by_playbook[name], **{key: alert[key] for key in alert if key in by_playbook[name]}}
        text = json.dumps(passed).replace("{{ event.labels.alertname }}", "Slow")
        alerts.append(["-e", text.replace("{{ events.drained.drained_by }}", "Slow")])
        assert "{{" not in alerts[-1][1], alerts

    def alert_comes() -> None:
        status, printed = site.playbook("drain", *alerts[0])
        assert status == 0, printed

    def drained_by_hand() -> None:
        by_hand(site, "drained")

    for orders in ((alert_comes, drained_by_hand), (drained_by_hand, alert_comes)):
        for order in orders:
            order()
        status, printed = site.playbook("restore", *alerts[1])
        assert status == 0, printed
        assert f"lb1: web2 of web stays out: {WEB2}:9000 of web: drained\n" in printed
        assert answers(site) == [ONLY_WEB1, ONLY_WEB1]
        if order is alert_comes:
            status, printed = site.playbook("restore", *alerts[1])
            assert status == 0, printed
            assert printed.count("changed=0") == printed.count("changed=")
        by_hand(site, "active")
        assert answers(site) == [BOTH, BOTH]
    alert_comes()
    assert answers(site) == [ONLY_WEB1, ONLY_WEB1]
    status, printed = site.playbook("restore", *alerts[1])
    assert "lb1: web2 of web is as declared again\n" in printed
    assert answers(site) == [BOTH, BOTH]


def test_nothing_is_drained_where_one_balancer_refuses(site: Site) -> None:
    """On lb2 web1 is out already."""
    site.deploy([{**WEB, "backends": [{**BACKENDS[0], "state": "drained"}, BACKENDS[1]]}], site.lb2)
    assert answers(site) == [BOTH, Counter(web2=4)]
    status, printed = site.playbook("drain", "-e", "natlb_backend=web2")
    assert status == 2
    assert "service web: 0 of its backends would serve without web2, and min_active is 1" in printed
    assert answers(site) == [BOTH, Counter(web2=4)]


def test_nothing_is_drained_where_one_balancer_is_lost_but_the_others_bring_back(site: Site) -> None:
    site.own["lb2"] = {"ansible_port": 1}
    status, printed = site.playbook("drain", "-e", "natlb_backend=web2")
    assert status != 0
    assert answers(site) == [BOTH, BOTH]
    status, printed = site.playbook("drain", "-e", "natlb_backend=web2", "--limit", "!lb2")
    assert status == 0, printed
    assert answers(site) == [ONLY_WEB1, BOTH]
    status, printed = site.playbook("restore", "-e", "natlb_backend=web2")
    assert status == 4, printed
    assert answers(site) == [BOTH, BOTH]


def test_a_balancer_without_the_backend_is_right_and_a_name_that_none_has_is_not(site: Site) -> None:
    site.deploy([{**WEB, "backends": BACKENDS[:1]}], site.lb2)
    status, printed = site.playbook("drain", "-e", "natlb_backend=web2", "-e", "natlb_service=web")
    assert status == 0, printed
    assert left(printed) == {"lb1": "0"}
    assert "lb2: backend web2: service web has none of this name or address (there are: web1)" in printed
    status, printed = site.playbook("restore", "-e", "natlb_backend=wbe2")
    assert status == 2
    assert "backend wbe2: every service has none of this name or address (there are: web1, web2)" in printed
    assert recap(printed)["lb1"]


def test_a_playbook_of_the_users_imports_them_and_they_become_root(site: Site) -> None:
    site.log_in_as_nobody()
    given: dict[str, Any] = {"natlb_backend": "web2", "natlb_service": "web", "natlb_wait": False}
    plays = [{"import_playbook": f"natlb.netfilter.{name}", "vars": given} for name in ("drain", "restore")]
    (site.folder / "both.yml").write_text(yaml.safe_dump(plays))
    status, printed = site.play("both.yml")
    assert status == 0, printed
    assert printed.index("lb2: web2 of web is drained\n") < printed.index("lb2: web2 of web is as declared again")
    assert recap(printed) == {"lb1": False, "lb2": False, "localhost": False}
    assert printed.count("changed=2") == 2, "drained and brought back, on each"
    assert answers(site) == [BOTH, BOTH]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "natlb_backend: is not set (write the name of a backend as in natlb_services"),
        (("-e", "natlb_backend=web2", "--limit", "web2"), "--limit web2: leaves none of the balancers (lb1, lb2)"),
    ],
    ids=["no name", "limit"],
)
def test_what_is_missing_is_told_before_a_balancer_is_asked(
    site: Site, arguments: tuple[str, ...], complaint: str
) -> None:
    status, printed = site.playbook("drain", *arguments)
    assert status == 2
    assert complaint in printed
    assert "Drain the backend" not in printed
