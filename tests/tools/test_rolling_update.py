# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks of docs/rolling-update.md, run over two balancers and three backends under load.

The scenario molecule/rolling runs the first of them on containers, with nftables.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from playbook_site import OTHER, ROOT, VIP, Site, recap

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)

RATE = 200
#: What a user would have in a role. The server of the hosts in `broken_on` does not come back.
ROLE = f"""
- name: Stop the server
  ansible.builtin.shell: kill $(cat /run/server.pid); rm /run/server.pid
- name: Start the new version
  ansible.builtin.shell: >-
    setsid {sys.executable} {ROOT}/tests/lab/identity_server.py </dev/null >/dev/null 2>&1 & echo $! >/run/server.pid
  environment:
    LAB_NAME: "{{{{ inventory_hostname }}}}"
    LAB_VERSION: "{{{{ release }}}}"
  when: inventory_hostname not in broken_on | default([])
- name: Wait for its port
  ansible.builtin.wait_for: {{port: 8080, timeout: 20}}
  when: inventory_hostname not in broken_on | default([])
- name: Fail where it does not come back
  ansible.builtin.fail: {{msg: the server did not come back}}
  when: inventory_hostname in broken_on | default([])
"""
RESTART = [{"hosts": "web1", "gather_facts": False, "roles": [{"role": "web_server"}]}]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), webs=3)
    try:
        site.by(site.lb1, f"{VIP}/32")
        site.by(site.lb2, f"{OTHER}/32")
        tasks = site.folder / "roles" / "web_server" / "tasks"
        tasks.mkdir(parents=True)
        (tasks / "main.yml").write_text(ROLE)
        (site.folder / "restart.yml").write_text(yaml.safe_dump(RESTART))
        page = (ROOT / "docs" / "rolling-update.md").read_text()
        for number, shown in enumerate(re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)):
            (site.folder / f"shown{number}.yml").write_text(shown)
        yield site
    finally:
        site.close()


@pytest.fixture
def site(made: Site) -> Site:
    """All servers run in version 1, and both balancers have all of them in rotation. The inventory is plain."""
    for web in made.webs:
        web.run("sh", "-c", "touch /run/server.pid; kill $(cat /run/server.pid) 2>/dev/null || true")
        start = f"LAB_NAME={web.name} setsid {sys.executable} {ROOT}/tests/lab/identity_server.py"
        web.run("sh", "-c", f"{start} </dev/null >/dev/null 2>&1 & echo $! >/run/server.pid")
        web.run("sh", "-c", "until ss -Hltn sport = :8080 | grep -q .; do sleep 0.05; done")
    declare(made)
    return made


def declare(site: Site) -> None:
    """On iptables: the scenario with containers is on nftables."""
    backends = [{"name": web.name, "address": web.address, "port": 8080} for web in site.webs]
    web = {"name": "web", "listen": [f"{VIP}:80", f"{OTHER}:80"], "backends": backends}
    for member in (site.lb1, site.lb2):
        member.run("rm", "-f", "/etc/natlb/overrides.json")
        member.balance([web], engine="iptables")


class Load:
    """What clients of both balancers have seen."""

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}

    @property
    def failed(self) -> int:
        return sum(target["failed"] for target in self.report["targets"].values())

    def said(self) -> str:
        return "; ".join(
            f"{url}: {seen['failed']} of {seen['attempts']} failed {seen['errors']}, longest {seen['longest_s']} s"
            for url, seen in self.report["targets"].items()
        )


@contextlib.contextmanager
def load(site: Site) -> Iterator[Load]:
    """Clients come meanwhile, half of them by each of the balancers."""
    path, seen = site.folder / "load.json", Load()
    path.unlink(missing_ok=True)
    argv = ["nsenter", f"--target={site.hub}", "--net", sys.executable, str(ROOT / "tests" / "lab" / "load.py")]
    argv += [f"http://{VIP}", f"http://{OTHER}", f"--rate={RATE}", "--seconds=240", f"--report={path}"]
    with subprocess.Popen(argv) as clients:
        try:
            while not path.exists() or not json.loads(path.read_text())["seconds"]:
                assert clients.poll() is None
                time.sleep(0.05)
            yield seen
        finally:
            clients.terminate()
            clients.wait(60)
    seen.report = json.loads(path.read_text())
    assert seen.report["ended"]
    assert sum(target["attempts"] for target in seen.report["targets"].values()) >= 0.9 * RATE * seen.report["seconds"]
    print(seen.said())


def test_no_connection_fails(site: Site) -> None:
    with load(site) as clients:
        status, printed = site.play("shown0.yml", "-e", "release=2")
    assert status == 0, printed
    assert clients.failed == 0, clients.said()
    versions = {f"web{number} identity/{version}" for number in (1, 2, 3) for version in (1, 2)}
    for seen in clients.report["targets"].values():
        assert {*seen["answers"]} == versions


def test_without_the_drain_connections_fail(site: Site) -> None:
    """Or the clients would not notice anything."""
    with load(site) as clients:
        status, printed = site.play("restart.yml", "-e", "release=2")
    assert status == 0, printed
    assert clients.failed > 0


def test_what_is_brought_back_always_is_brought_back_broken(site: Site) -> None:
    """The roll-out stops as well, and clients meet a server that is not there."""
    with load(site) as clients:
        status, printed = site.play("shown1.yml", "-e", '{"release": 2, "broken_on": ["web2"]}')
    assert status == 2
    assert recap(printed) == {"web1": False, "web2": True}, "web3 is not touched"
    assert clients.failed > 0
