# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role balancer installs, by what a host answers: the engine that can run there."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "balancer"


class Case(NamedTuple):
    """A host that answers so, with the engine asked for; the engine that is provided for, and what is missing of it."""

    engine: str
    answer: str
    flavour: str
    missing: tuple[str, ...]
    packages: tuple[str, ...]


DEBIAN_NFT, DEBIAN_IPTABLES = ("nftables", "conntrack", "iproute2"), ("iptables", "conntrack", "iproute2")
REDHAT_NFT, REDHAT_IPTABLES = (
    ("nftables", "conntrack-tools", "iproute"),
    ("iptables-nft", "conntrack-tools", "iproute"),
)
REDHAT_8_IPTABLES = ("iptables", "conntrack-tools", "iproute")
CASES = {
    "all there": Case(
        "auto", "kernel 6.1.0-18-amd64|nft nftables v1.0.6 (Lester Gooch #5)|distribution debian",
        "nftables", (), DEBIAN_NFT,
    ),
    "a new Debian 12": Case(
        "auto", "missing nft|missing iptables-restore|missing conntrack|kernel 6.1.0-18-amd64|nft 1.0.6-2+deb12u2"
        "|distribution debian", "nftables", ("nft", "conntrack"), DEBIAN_NFT,
    ),
    "a new Debian 11": Case(
        "auto", "missing nft|missing iptables-restore|missing conntrack|kernel 5.10.0-28-amd64|nft 0.9.8-3.1+deb11u2"
        "|distribution debian", "iptables", ("iptables-restore", "conntrack"), DEBIAN_IPTABLES,
    ),
    "Debian 11 with a new kernel": Case(
        "auto", "missing nft|missing iptables-restore|kernel 6.1.0|nft 0.9.8-3.1+deb11u2|distribution debian",
        "iptables", ("iptables-restore",), DEBIAN_IPTABLES,
    ),
    "an old nft that is there": Case(
        "auto", "missing iptables-restore|kernel 6.1.0|nft nftables v0.9.8 (E.D.S.)|distribution debian",
        "iptables", ("iptables-restore",), DEBIAN_IPTABLES,
    ),
    "an old nft and iptables": Case(
        "auto", "missing nft|kernel 5.10.0|nft 0.9.8|distribution debian", "iptables", (), DEBIAN_IPTABLES
    ),
    "an old kernel, and no apt": Case(
        "auto", "missing nft|missing iptables-restore|kernel 4.18.0-513.el8|distribution rhel fedora|release 8.9",
        "iptables", ("iptables-restore",), REDHAT_8_IPTABLES,
    ),
    "Red Hat 9": Case(
        "auto", "missing conntrack|kernel 5.14.0-362.el9|nft nftables v1.0.9 (Old Doc Yak #3)|distribution rhel fedora",
        "nftables", ("conntrack",), REDHAT_NFT,
    ),
    "iptables is asked for on Red Hat 9": Case(
        "iptables", "missing iptables-restore|kernel 5.14.0-362.el9|distribution rhel fedora|release 9.3",
        "iptables", ("iptables-restore",), REDHAT_IPTABLES,
    ),
    "nftables is asked for": Case(
        "nftables", "missing nft|kernel 5.10.0|nft 0.9.8|distribution debian", "nftables", ("nft",), DEBIAN_NFT
    ),
    "iptables is asked for": Case(
        "iptables", "missing iptables-restore|kernel 6.1.0|nft nftables v1.0.6|distribution ubuntu debian",
        "iptables", ("iptables-restore",), DEBIAN_IPTABLES,
    ),
}  # fmt: skip


def test_what_is_installed(tmp_path: pathlib.Path) -> None:
    """All cases are the hosts of one play, since each start of Ansible takes seconds."""
    hosts = {
        f"host{number}": {"natlb_engine": case.engine, "natlb_balancer_host": {"stdout_lines": case.answer.split("|")}}
        for number, case in enumerate(CASES.values())
    }
    found = "{{ [natlb_balancer_flavour, natlb_balancer_missing, natlb_balancer_packages] | to_json }}"
    play = {
        "hosts": "all",
        "gather_facts": False,
        "vars_files": [str(ROLE / "vars" / "main.yml")],
        "tasks": [{"ansible.builtin.debug": {"msg": f"answer {found}"}}],
    }
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    argv = [str(ROOT / "tools" / "run"), "env", "ANSIBLE_CALLBACK_RESULT_FORMAT=json", "ANSIBLE_NOCOLOR=1"]
    argv += ["ansible-playbook", "-i", "inventory.json", "play.yml"]
    done = subprocess.run(argv, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answers: dict[str, Any] = {}
    for part in done.stdout.split("ok: [")[1:]:
        host, _arrow, result = part.partition("] => ")
        message = json.loads(result[: result.index("}") + 1])["msg"]
        answers[host] = json.loads(message.removeprefix("answer "))
    for number, (name, case) in enumerate(CASES.items()):
        flavour, missing, packages = answers[f"host{number}"]
        assert (flavour, sorted(missing), packages) == (case.flavour, sorted(case.missing), list(case.packages)), name


#: A package manager that knows no package, as one does whose lists were never fetched.
NO_LISTS = """
from ansible.module_utils.basic import AnsibleModule
spec = {"name": {"type": "list", "elements": "str"}, "state": {"type": "str"}}
module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
module.fail_json(msg="No package matching 'nftables' is available")
"""


@pytest.mark.skipif(bool(os.geteuid()), reason="needs root and network namespaces")
def test_a_check_does_not_end_where_packages_cannot_be_looked_up(tmp_path: pathlib.Path) -> None:
    """It cannot tell whether they could be installed, so it takes it that they could, and shows the plan."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "no_lists.py").write_text(NO_LISTS)
    answer = ("missing nft", "kernel 6.1.0", "nft 1.0.6", "distribution debian")
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_package_use": "ansible.legacy.no_lists",
        "natlb_balancer_question": "; ".join(f"echo {line}" for line in answer),
        "natlb_services": [{"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3"}]}],
    }
    role = {"role": "natlb.netfilter.balancer"}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{"hosts": "lb1", "gather_facts": False, "roles": [role]}]))
    # A host in a namespace of its own, and nothing but looked at.
    inside = 'mount -t tmpfs none /run && exec "$0" "$@"'
    argv = ["unshare", "--net", "--mount", "sh", "-c", inside, str(ROOT / "tools" / "run"), "env", "ANSIBLE_NOCOLOR=1"]
    argv += [f"ANSIBLE_LIBRARY={tmp_path / 'library'}", "ansible-playbook", "-i", "lb1,", "play.yml"]
    argv += ["--check", "--diff", "--extra-vars", json.dumps(variables)]
    done = subprocess.run(argv, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "RETRYING" not in done.stdout + done.stderr
    assert "192.0.2.10" in done.stdout
    assert re.search(r"^lb1 .* changed=2 .* failed=0", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(("variable", "constant"), [("least_nft", "NFT_MINIMUM"), ("least_kernel", "LINUX_MINIMUM")])
def test_what_nftables_needs_is_said_once(variable: str, constant: str) -> None:
    core = (ROOT / "plugins" / "module_utils" / "_natlb" / "nftables" / "engine.py").read_text()
    declared = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())[f"natlb_balancer_{variable}"]
    assert f"\n{constant} = ({declared.replace('.', ', ')})\n" in core
