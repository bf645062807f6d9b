# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A balancer that fetches its declaration by ansible-pull, as docs/fleet.md says. It is a network namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from playbook_site import ROOT, Site, recap
from processes import said

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or None in map(shutil.which, ("nft", "git")),
    reason="needs root, network namespaces, nft and git",
)
WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.77.1.4"}]}
DB = {"name": "db", "listen": "192.0.2.10:5432", "backends": [{"address": "10.77.1.5"}]}


class Repository:
    """What an operator has: an inventory with group_vars, and the playbook that each balancer runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "group_vars" / "balancers").mkdir(parents=True)
        hosts = {"lb1": {"ansible_connection": "local"}, "lb2": {"ansible_connection": "local"}}
        (folder / "inventory.yml").write_text(yaml.safe_dump({"balancers": {"hosts": hosts}}))
        common = {"natlb_engine": "nftables", "natlb_manage_packages": False, "natlb_verify_each": False}
        self.write("common", {**common, "natlb_persist": False, "ansible_python_interpreter": sys.executable})
        (folder / "local.yml").write_text("- import_playbook: natlb.netfilter.deploy\n")
        self.git("init", "--quiet", "--initial-branch=main")

    def write(self, name: str, variables: dict[str, object]) -> None:
        (self.folder / "group_vars" / "balancers" / f"{name}.yml").write_text(yaml.safe_dump(variables))

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("-c", "user.name=o", "-c", "user.email=o@example.org", "commit", "--quiet", "--message=a change")

    def git(self, *arguments: str) -> None:
        subprocess.run(["git", "-C", str(self.folder), *arguments], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    try:
        yield made
    finally:
        made.close()


def pull(site: Site, repository: Repository, *arguments: str) -> tuple[int, str]:
    """What a timer runs on lb1. There the name of the host is that of the inventory, and --limit is not needed."""
    argv = ["nsenter", f"--target={site.lb1.pid}", "--net", "--mount", "--pid", str(ROOT / "tools" / "run")]
    argv += ["ansible-pull", f"--url={repository.folder}", "--checkout=main", f"--directory={site.folder}/checkout"]
    argv += ["--inventory=inventory.yml", "--limit=lb1,localhost", *arguments, "local.yml"]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "HOME": str(site.folder)}
    return said(argv, site.folder, environment)


def test_a_balancer_follows_its_repository(site: Site, tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.write("web", {"natlb_services_web": [WEB]})
    repository.commit()
    status, printed = pull(site, repository)
    assert status == 0, printed
    assert "lb2" not in recap(printed)
    assert "192.0.2.10 . tcp . 80" in site.lb1.state()

    repository.write("db", {"natlb_services_db": [DB]})
    repository.commit()
    status, printed = pull(site, repository, "--only-if-changed")
    assert status == 0, printed
    assert "192.0.2.10 . tcp . 5432" in site.lb1.state()

    before = site.lb1.state()
    repository.write("db", {"natlb_services_db": [{**DB, "listen": "192.0.2.10:80"}]})
    repository.commit()
    status, printed = pull(site, repository)
    assert status != 0
    assert "natlb_services_web[0].listen: web and db (natlb_services_db[0]) both claim tcp 192.0.2.10:80" in printed
    assert "Deploy the balancers" not in printed
    assert site.lb1.state() == before
    assert "192.0.2.10" not in site.lb2.state()
