# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as a user gets it: built, installed from its archive, and with nothing but what a run needs."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NEEDED = {"meta", "plugins", "roles", "playbooks"}
MODULES = {"balancer", "balancer_confirm", "balancer_info", "probe", "show_text", "validate_declaration"}
SOURCES = [*NEEDED, "docs", "changelogs", "README.md", "CHANGELOG.md", "LICENSE", "COPYING", "galaxy.yml", "Makefile"]
LOCALHOST = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The collections path of an installation from the archive, reduced to what a run needs."""
    folder = tmp_path_factory.mktemp("collection")
    source = folder / "source"
    source.mkdir()
    for path in (ROOT / name for name in SOURCES):
        if path.is_dir():
            shutil.copytree(path, source / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy(path, source)
    run(folder, "ansible-galaxy", "collection", "build", str(source), "--output-path", str(folder))
    (archive,) = folder.glob("natlb-netfilter-*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[0] for name in content.getnames()}
    assert names >= NEEDED | {"MANIFEST.json", "README.md", "docs"}
    assert not names & {"tests", "tools", "molecule", "Makefile"}
    run(folder, "ansible-galaxy", "collection", "install", "--offline", str(archive), "--collections-path", str(folder))
    collection = folder / "ansible_collections" / "natlb" / "netfilter"
    for path in collection.iterdir():
        if path.name not in NEEDED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def attempt(folder: pathlib.Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs with an ANSIBLE_HOME of its own, so that no other copy is found."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    environment |= {"ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_COLLECTIONS_PATH": str(folder), "NO_COLOR": "1"}
    return subprocess.run(
        argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def run(folder: pathlib.Path, *argv: str) -> str:
    """What a program of Ansible's prints that succeeds."""
    done = attempt(folder, *argv)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_modules_are_documented(installed: pathlib.Path) -> None:
    names = [f"natlb.netfilter.{name}" for name in sorted(MODULES)]
    documented = json.loads(run(installed, "ansible-doc", "--json", "-t", "module", *names))
    assert documented.keys() == set(names)
    for name in names:
        assert documented[name]["examples"], name
        assert "check_mode" in documented[name]["doc"]["attributes"], name


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml")))
def test_playbooks_run_by_name(installed: pathlib.Path, playbook: str) -> None:
    (installed / "inventory").write_text("[balancers]\nlb1 ansible_connection=local\n")
    output = run(installed, "ansible-playbook", "-i", "inventory", "--list-tasks", f"natlb.netfilter.{playbook}")
    assert "TAGS" in output


def test_a_module_runs_on_the_host_alone(installed: pathlib.Path) -> None:
    """Bad input, so that nothing is touched: the answer comes from the core, which came along with the module."""
    (installed / "play.yml").write_text(
        "- hosts: localhost\n"
        "  gather_facts: false\n"
        "  tasks:\n"
        "    - natlb.netfilter.balancer: {services: [{name: web, backends: []}]}\n"
        "      register: answer\n"
        "      ignore_errors: true\n"
        "    - ansible.builtin.assert: {that: \"answer.msg == 'services[0].listen: is missing (it is required)'\"}\n"
    )
    assert "failed=0" in run(installed, "ansible-playbook", *LOCALHOST, "play.yml")


def test_filters_run_on_the_controller(installed: pathlib.Path) -> None:
    (installed / "filter.yml").write_text(
        "- hosts: localhost\n"
        "  gather_facts: false\n"
        "  tasks:\n"
        "    - ansible.builtin.assert:\n"
        "        that: \"('10.0.0.3-10.0.0.6' | natlb.netfilter.to_addresses) | length == 4\"\n"
    )
    assert "failed=0" in run(installed, "ansible-playbook", *LOCALHOST, "filter.yml")


OLD_NAMES = [
    ("natlb.netfilter.confirm: {token: a}", "balancer_confirm"),
    ("natlb.netfilter.declaration: {}", "validate_declaration"),
    *(
        (f'ansible.builtin.debug: {{msg: "{{{{ [] | natlb.netfilter.{old} }}}}"}}', new)
        for old, new in {
            "backends": "to_backends",
            "checks": "verify_checks",
            "hosts": "to_addresses",
            "probes": "verify_probes",
            "run_settings": "play_settings",
            "verdict": "verify_verdict",
        }.items()
    ),
]


@pytest.mark.parametrize(("task", "new"), OLD_NAMES, ids=[new for _task, new in OLD_NAMES])
def test_old_names_of_modules_and_filters_are_told_the_new_ones(installed: pathlib.Path, task: str, new: str) -> None:
    (installed / "old.yml").write_text(f"- hosts: localhost\n  gather_facts: false\n  tasks:\n    - {task}\n")
    done = attempt(installed, "ansible-playbook", *LOCALHOST, "old.yml")
    assert done.returncode != 0
    assert f"Use natlb.netfilter.{new} instead" in " ".join((done.stdout + done.stderr).split())


def test_the_old_name_of_a_role_is_told_the_new_one(installed: pathlib.Path) -> None:
    (installed / "old.yml").write_text(
        "- hosts: localhost\n  gather_facts: false\n  roles: [natlb.netfilter.backend]\n"
    )
    done = attempt(installed, "ansible-playbook", *LOCALHOST, "old.yml")
    assert done.returncode != 0
    assert "natlb.netfilter.backend is now called natlb.netfilter.return_path" in " ".join(done.stdout.split())
