# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook deploy on several hosts, of which one fails or cannot be reached: what the others are left with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _natlb.plan import balance
from fleet import HERE, PORT, ROOT, Fleet, Member, fleet

WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "198.51.100.1", "port": 8080}]}
UNIT = "/etc/systemd/system/natlb.service"
ENABLED = "/etc/systemd/system/multi-user.target.wants/natlb.service"
#: A systemd of one script: it knows what was enabled and started, and nothing fails but what the file `fails` names.
SYSTEMCTL = """#!/bin/sh
[ "$1" = --quiet ] && shift
verb=$1
shift
for unit; do
    case $unit in --*) continue ;; esac
    grep -qsx "$verb $unit" /run/fails && { echo "Job for $unit failed." >&2; exit 1; }
    case $verb in
    show)
        echo "LoadState=loaded"
        if [ -e "/run/enabled.$unit" ]; then echo UnitFileState=enabled; else echo UnitFileState=disabled; fi
        state=inactive
        [ -e "/run/active.$unit" ] && state=active
        grep -qsx "start $unit" /run/fails && state=failed
        echo "ActiveState=$state"
        printf 'NeedDaemonReload=no\\n\\n'
        ;;
    enable) : >"/run/enabled.$unit" ;;
    is-enabled) [ -e "/run/enabled.$unit" ] && echo enabled && exit; echo disabled; exit 1 ;;
    start | restart) : >"/run/active.$unit" ;;
    stop) rm -f "/run/active.$unit" ;;
    disable) rm -f "/run/enabled.$unit" ;;
    esac
done
"""
#: A unit of its own for a moment: a process of its own.
SYSTEMD_RUN = """#!/bin/sh
while :; do case $1 in --*) shift ;; *) break ;; esac; done
setsid "$@" </dev/null >/dev/null 2>&1 &
"""
JOURNALCTL = """#!/bin/sh
case " $* " in *" --sync "*) ;; *) echo "it would not" ;; esac
"""

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces and nft"
)


@dataclass
class Run:
    status: int
    printed: str

    def recap(self, member: Member, what: str) -> int:
        found = re.search(rf"^{member.name} +:.* {what}=(\d+)", self.printed, re.MULTILINE)
        return int(found[1]) if found else 0


@dataclass
class Rollout:
    hosts: Fleet

    def deploy(self, *arguments: str, **of_hosts: dict[str, Any]) -> Run:
        """The playbook on all hosts, with what `of_hosts` gives each, by name, beside one service for all."""
        hosts = {member.name: {**member.variables, **of_hosts.get(member.name, {})} for member in self.hosts.members}
        variables = {
            "natlb_services": [WEB],
            "natlb_engine": "nftables",
            "natlb_manage_packages": False,
            # Its backends are nowhere.
            "natlb_verify_each": False,
        }
        inventory = self.hosts.folder / "rollout.json"
        inventory.write_text(json.dumps({"balancers": {"hosts": hosts, "vars": variables}}))
        argv = ["nsenter", f"--target={self.hosts.hub}", "--net", str(ROOT / "tools" / "run"), "env"]
        argv += [f"ANSIBLE_CONNECTION_PLUGINS={HERE / 'connection_plugins'}", "ANSIBLE_NOCOLOR=1", "ansible-playbook"]
        done = subprocess.run(
            [*argv, f"--inventory={inventory}", "natlb.netfilter.deploy", *arguments],
            env={name: value for name, value in os.environ.items() if not name.startswith("SSH_")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        return Run(done.returncode, done.stdout + done.stderr)


def balances(member: Member) -> bool:
    return "192.0.2.10 . tcp . 80" in member.state()


def boots(member: Member) -> bool:
    """Whether the rules and what loads them come up at a boot."""
    found = member.run("sh", "-c", f"ls /etc/natlb/boot {UNIT} {ENABLED} /run/active.natlb.service 2>/dev/null || true")
    return len(found.split()) == 4


@pytest.fixture
def rollout(tmp_path: Path) -> Iterator[Rollout]:
    programs = {"systemctl": SYSTEMCTL, "systemd-run": SYSTEMD_RUN, "journalctl": JOURNALCTL}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    with fleet(3, tmp_path) as hosts:
        for member in hosts.members:
            member.run("mkdir", "-p", "/run/systemd/system", "/etc/systemd/system")
            for name in programs:
                member.run("mount", "--bind", str(tmp_path / name), shutil.which(name) or f"/usr/bin/{name}")
        yield Rollout(hosts)


def break_nft(member: Member) -> None:
    """Nothing is wrong with what is declared for it: the host cannot do it."""
    member.run("mount", "--bind", shutil.which("false") or "/bin/false", shutil.which("nft") or "/usr/sbin/nft")


def test_all_is_well(rollout: Rollout) -> None:
    done = rollout.deploy()
    assert done.status == 0, done.printed
    first, second, third = (member.name for member in rollout.hosts.members)
    assert f"\n0 of 3 balancers are done, next: {first}\n" in done.printed
    assert f"\n1 of 3 balancers are done, next: {second}\n" in done.printed
    assert f"\n2 of 3 balancers are done, next: {third}\n" in done.printed
    assert "\nall 3 balancers are alike\n" in done.printed
    for member in rollout.hosts.members:
        assert balances(member)
        assert boots(member)


def test_the_program_is_at_hand_and_goes_with_the_rest(rollout: Rollout) -> None:
    """Also where no agent runs."""
    assert rollout.deploy().status == 0
    (first, *_others) = rollout.hosts.members
    assert "192.0.2.10:80" in first.run("natlb", "status")
    assert first.run("natlb", "drain", "198.51.100.1", "--min-active", "0").startswith("198.51.100.1 of web: changed")
    rollout.deploy("--extra-vars=natlb_state=absent")
    assert first.run("sh", "-c", "ls -A /usr/local/sbin; find /etc /run -name '*natlb*' -not -path '/run/etc*'") == ""


def test_a_host_that_fails_leaves_the_others_complete(rollout: Rollout) -> None:
    first, second, third = rollout.hosts.members
    break_nft(second)
    done = rollout.deploy("--extra-vars=natlb_serial=3")
    assert done.status == 2, done.printed
    assert "balancers are done" not in done.printed, "there is one batch"
    assert done.recap(second, "failed") == 1
    for member in (first, third):
        assert balances(member)
        assert boots(member), done.printed


def test_a_wrong_result_on_the_first_stops_the_rest(rollout: Rollout) -> None:
    first, second, third = rollout.hosts.members
    break_nft(first)
    done = rollout.deploy()
    assert done.status == 2, done.printed
    for member in (second, third):
        assert not balances(member)


@pytest.mark.parametrize("gone", [0, 2])
def test_a_host_that_cannot_be_reached_is_left_out_and_named(rollout: Rollout, gone: int) -> None:
    unlucky = rollout.hosts.members[gone]
    done = rollout.deploy(**{unlucky.name: {"ansible_port": PORT + 1}})
    assert done.status == 2, done.printed
    assert f"{unlucky.name} could not be reached, so nothing was changed on it: " in done.printed
    for member in rollout.hosts.members:
        assert (balances(member), boots(member)) == (member is not unlucky,) * 2, done.printed
        assert done.recap(member, "failed") == (member is unlucky)


def test_the_first_that_can_be_reached_goes_first(rollout: Rollout) -> None:
    """With the first one not there, the second alone shows whether the declaration is right."""
    first, second, third = rollout.hosts.members
    break_nft(second)
    done = rollout.deploy(**{first.name: {"ansible_port": PORT + 1}})
    assert done.status == 2, done.printed
    assert not balances(third)


@pytest.mark.parametrize("rollback_after", [0, 5])
def test_what_fails_at_boot_leaves_the_host_as_it_was(rollout: Rollout, rollback_after: int) -> None:
    """Rules and what brings them back stand or fall together, on each host; with a confirmation as well."""
    first, second, third = rollout.hosts.members
    second.run("sh", "-c", "echo start natlb.service > /run/fails")
    done = rollout.deploy(f"--extra-vars=natlb_serial=3 natlb_rollback_after={rollback_after}")
    assert done.status == 2
    words = " ".join(done.printed.split())
    assert "Job for natlb.service failed." in words
    assert "natlb.service: it would not" in words
    for member in (first, third):
        assert balances(member)
        assert boots(member)
    second.run("sh", "-c", "while ls /run/natlb/rollback.*/pending 2>/dev/null; do sleep 0.1; done")
    second.run("flock", "/run/natlb/lock", "true")
    assert not balances(second)
    assert second.run("sh", "-c", "ls -A /etc/natlb /etc/systemd/system 2>/dev/null || true").split() == [
        "/etc/systemd/system:"
    ]
    second.run("rm", "/run/fails")
    assert rollout.deploy().status == 0
    assert boots(second)


@pytest.mark.parametrize("ports", [["8080", "53/udp", "8000-8010", "9000/sctp"], []], ids=["policy", "gateway"])
def test_backends_need_no_names_of_protocols(rollout: Rollout, ports: list[str]) -> None:
    """/etc/protocols belongs to a package of its own, and ip says tcp or ipproto-6 by what is there."""
    _first, _second, backend = rollout.hosts.members
    backend.run("mount", "-t", "tmpfs", "-o", "mode=755", "sbin", "/usr/local/sbin")
    backend.run("mount", "--bind", "/dev/null", "/etc/protocols")
    given = {"natlb_return_gateway": "10.77.0.1", "natlb_return_ports": ports}
    done = rollout.deploy("--extra-vars=natlb_hosts=lb1 natlb_backend_hosts=lb3", lb3=given)
    assert done.status == 0, done.printed
    script = "/usr/local/sbin/natlb-return-path"
    backend.run("sh", script, "up")
    assert backend.run("sh", script, "drift") == ""
    assert "proto 84" in backend.run("ip", "rule", "show")
    backend.run("umount", "/etc/protocols")
    assert backend.run("sh", script, "drift") == ""
    backend.run("sh", script, "down")


def without(member: Member, *programs: str) -> None:
    """A host that does not have them."""
    script = "mkdir /run/sbin && mount --bind /usr/sbin /run/sbin && mount -t tmpfs sbin /usr/sbin"
    script += " && ln -s /run/sbin/* /usr/sbin/ && cd /usr/sbin && rm " + " ".join(programs)
    member.run("sh", "-ec", script)


def planned(member: Member, engine: str, **more: Any) -> dict[str, Any]:
    """What the module says of a run there."""
    script = "import json, sys; sys.path.insert(0, sys.argv[1]); from _natlb.plan.balance import balance; "
    script += "print(json.dumps(vars(balance([json.loads(sys.argv[2])], **json.loads(sys.argv[3])))))"
    options = json.dumps({"engine": engine, "conntrack": {"max": "auto"}, **more})
    argv = [sys.executable, "-c", script, str(Path(balance.__file__).parents[2]), json.dumps(WEB), options]
    found: dict[str, Any] = json.loads(member.run(*argv))
    return found


@pytest.mark.parametrize(
    ("engine", "programs", "taken"),
    [
        ("auto", ("nft",), "nftables"),
        ("nftables", ("nft", "conntrack"), "nftables"),
        ("iptables", ("iptables", "iptables-restore", "iptables-nft-restore"), "iptables"),
    ],
)
def test_check_mode_knows_what_will_be_installed(
    rollout: Rollout, engine: str, programs: tuple[str, ...], taken: str
) -> None:
    """The plan of a bare host is that of the run on a host of the same kind that has the programs."""
    bare, full, _third = rollout.hosts.members
    without(bare, *programs)
    plan = planned(bare, engine, check=True, assume_installed=True)
    done = planned(full, engine)
    assert plan["engine"] == done["engine"] == taken
    for known in ("changed", "transaction", "services", "sysctls", "warnings"):
        assert plan[known] == done[known], known
    assert plan["diff"].splitlines()[0] == done["diff"].splitlines()[0]
    assert "192.0.2.10" in plan["diff"]
    assert not balances(bare)


def test_most_services_do_not_go_without_a_word(rollout: Rollout) -> None:
    assert rollout.deploy().status == 0
    done = rollout.deploy("--check", lb2={"natlb_services": []})
    assert done.status == 0
    printed = " ".join(done.printed.split())
    assert printed.count("lb2: natlb_services: 1 of the 1 services of this host are removed: web") == 1
    assert "(declare them again to keep them)" in printed
