# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every release of ansible-core that the README names, as a user has it: the archive installed, playbooks by name.

`make versions`. Each release gets a virtual environment of its own below .cache/versions. Hosts are namespaces.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DRILLS = ROOT / "tests" / "drills"
sys.path.insert(0, str(DRILLS))
sys.path.insert(0, str(ROOT / "plugins" / "module_utils"))

from fleet import Fleet, fleet  # noqa: E402
from processes import said  # noqa: E402

#: ansible-core by release, and the Pythons that it runs on which this project supports on a control node.
RELEASES = {
    "2.18": ("3.11", "3.12", "3.13"),
    "2.19": ("3.11", "3.12", "3.13"),
    "2.20": ("3.12", "3.13"),
    "2.21": ("3.12", "3.13"),
}
SERVICES = [
    {"name": "web", "listen": ["192.0.2.10:80"], "backends": [{"address": "198.51.100.1"}, {"address": "198.51.100.2"}]}
]


def python(versions: tuple[str, ...]) -> str:
    """An interpreter of one of these versions: on the PATH, or one that pyenv has installed."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in versions:
        candidates = [
            shutil.which(f"python{version}"),
            *map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}"))),
        ]
        for candidate in filter(None, candidates):
            if (
                subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode
                == 0
            ):
                return candidate
    pytest.fail(f"none of Python {', '.join(versions)} is installed, with venv")


def environment(release: str) -> Path:
    """The programs of the newest ansible-core of a release."""
    folder = ROOT / ".cache" / "versions" / release
    if not (folder / "bin" / "ansible-playbook").exists():
        subprocess.run([python(RELEASES[release]), "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, f"ansible-core=={release}.*", "netaddr"], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(2, tmp_path_factory.mktemp("fleet")) as made:
        yield made


class Controller:
    """One release of ansible-core, and the collection installed from its archive."""

    def __init__(self, release: str, hosts: Fleet, folder: Path) -> None:
        self.release, self.bin, self.hosts, self.folder = release, environment(release), hosts, folder
        self.run("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(folder))
        (archive,) = folder.glob("natlb-netfilter-*.tar.gz")
        self.run("ansible-galaxy", "collection", "install", "--offline", str(archive), "-p", str(folder))
        of_hosts = {member.name: member.variables for member in hosts.members}
        variables = {
            "natlb_services": SERVICES,
            "natlb_persist": False,
            "natlb_manage_packages": False,
            "natlb_conntrack": {},
            "natlb_allow_management_port": True,
        }
        inventory = {"balancers": {"hosts": of_hosts, "vars": variables}}
        (folder / "inventory.json").write_text(json.dumps(inventory))

    def run(self, *argv: str, check: bool = True) -> str:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "SSH_", "PYTHON"))}
        kept |= {
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.folder),
            "NO_COLOR": "1",
        }
        kept |= {
            "ANSIBLE_CONNECTION_PLUGINS": str(DRILLS / "connection_plugins"),
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }
        enter = ["nsenter", f"--target={self.hosts.hub}", "--net"]
        status, printed = said([*enter, *argv], self.folder, kept)
        assert not check or status == 0, printed
        return printed

    def play(self, name: str, *options: str) -> str:
        return self.run("ansible-playbook", "-i", "inventory.json", *options, f"natlb.netfilter.{name}")


def changed(printed: str) -> list[str]:
    """What the recap says of each balancer."""
    return re.findall(r"^lb\d .*changed=(\d+)", printed, re.MULTILINE)


@pytest.fixture(scope="module", params=RELEASES)
def controller(request: pytest.FixtureRequest, hosts: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    return Controller(request.param, hosts, tmp_path_factory.mktemp("controller"))


def test_a_release_of_ansible_core(controller: Controller) -> None:
    version = controller.run("ansible-playbook", "--version").splitlines()[0]
    assert f"core {controller.release}." in version
    assert changed(controller.play("deploy", "--check", "--diff")) == ["1", "1"]
    first = controller.play("deploy")
    assert changed(first) == ["1", "1"]
    assert not re.search(r"\[(?:WARNING|DEPRECATION)", first), first
    assert changed(controller.play("deploy")) == ["0", "0"]
    status = controller.play("status")
    assert "198.51.100.1" in status
    assert "198.51.100.2" in status
    assert changed(controller.play("remove")) == ["1", "1"]
    for member in controller.hosts.members:
        assert "natlb" not in member.run("nft", "list", "ruleset")
    print(f"{version}: deploy, a second run with no change, status and remove")


def warned(printed: str, words: str) -> list[str]:
    """What stands before these words, wherever they are in a warning. Some releases break its lines."""
    return sorted(re.findall(rf"(\S+(?: \S+)?) {re.escape(words)}", " ".join(printed.split())))


def test_a_warning_of_two_hosts_is_shown_for_both(controller: Controller) -> None:
    """In the words of the role where that is what was run."""
    empty = [{**SERVICES[0], "backends": [{"address": "198.51.100.1", "state": "disabled"}]}]
    none_serves = "service web: no backend can serve; clients get a reject"
    first = controller.play("deploy", "--extra-vars", json.dumps({"natlb_services": empty}))
    assert warned(first, none_serves) == ["[WARNING]: lb1:", "[WARNING]: lb2:"]

    ask = [{"hosts": "balancers", "gather_facts": False, "tasks": [{"natlb.netfilter.balancer_info": {}}]}]
    (controller.folder / "ask.json").write_text(json.dumps(ask))
    shown = controller.run("ansible-playbook", "-i", "inventory.json", "ask.json")
    assert warned(shown, none_serves) == ["[WARNING]: lb1:", "[WARNING]: lb2:"]

    goes = "1 of the 1 services of this host are removed: web"
    removal = controller.play("deploy", "--check", "--extra-vars", json.dumps({"natlb_services": []}))
    assert warned(removal, goes) == ["lb1: natlb_services:", "lb2: natlb_services:"]
    assert warned(removal, "again to keep them") == ["(declare them"] * 2
    assert changed(controller.play("remove")) == ["1", "1"]
