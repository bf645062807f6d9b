# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of the role `return_path`, on a host in namespaces of its own."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterable

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: A systemd of one script. It does what the unit says, and knows what was enabled and started.
SYSTEMCTL = """#!/bin/sh
[ "$1" = --quiet ] && shift
verb=$1
shift
for unit; do
    case $unit in --*) continue ;; esac
    of_unit() { sed -n "s/^$1=//p" "/etc/systemd/system/$unit"; }
    execute() { of_unit "$1" | sh -e || [ $? = "$(of_unit SuccessExitStatus)" ]; }
    case $verb in
    show)
        [ -e "/etc/systemd/system/$unit" ] && echo LoadState=loaded || echo LoadState=not-found
        [ -e "/run/enabled.$unit" ] && echo UnitFileState=enabled || echo UnitFileState=disabled
        [ -e "/run/active.$unit" ] && echo ActiveState=active || echo ActiveState=inactive
        printf 'NeedDaemonReload=no\\n\\n'
        ;;
    enable) : >"/run/enabled.$unit" ;;
    is-enabled) [ -e "/run/enabled.$unit" ] && echo enabled && exit; echo disabled; exit 1 ;;
    start | restart) execute ExecStart && : >"/run/active.$unit" ;;
    stop) execute ExecStop && rm -f "/run/active.$unit" ;;
    disable) rm -f "/run/enabled.$unit" ;;
    esac
done
"""
#: Its only network is that of the balancer. `$0` is a folder, the arguments are what runs then.
INSIDE = """
for folder in /run /usr/local/sbin /etc/systemd/system; do mount -t tmpfs -o mode=755 none $folder; done
[ -n "$WITHOUT_SYSTEMD" ] || mkdir -p /run/systemd/system
mount --bind "$0/systemctl" "$(command -v systemctl)"
[ -z "$WITHOUT_MARKS" ] || mount --bind /bin/false "$(command -v nft)"
ip link add back type veth peer name wire
ip address add 10.0.0.3/24 dev back
ip link set back up && ip link set wire up && ip link set lo up
"$@"
"""
#: What is left in the end.
LEFT = """ip rule; ip -4 route show table all proto 84; nft list tables
find /etc/systemd/system /usr/local/sbin /run -name '*return*'"""


#: What is changed, by the name of the play.
CHANGES = {
    "the first": [
        "/usr/local/sbin/natlb-return-path",
        "/etc/systemd/system/natlb-return-path.service",
        "/etc/systemd/system/natlb-return-path-restore.service",
        "Put routes and rules in place, now and at boot",
        "Put them in place after each start of a firewall",
    ],
    # The host is asked itself whether all is there.
    "the second": [],
    "the removal": [
        "natlb-return-path-restore.service",
        "natlb-return-path.service",
        "/usr/local/sbin/natlb-return-path",
        "/etc/systemd/system/natlb-return-path.service",
        "/etc/systemd/system/natlb-return-path-restore.service",
    ],
}

if os.environ.get("NATLB_KERNEL") == "short":
    # molecule's scenario snat_none has a second run as well.
    del CHANGES["the second"]


def changes(printed: str) -> dict[str, list[str]]:
    """The items that were changed, or the tasks without any, by play."""
    found: dict[str, list[str]] = {}
    task = ""
    for line in printed.splitlines():
        if heading := re.match(r"PLAY \[(.*)\]", line):
            changed = found.setdefault(heading[1], [])
        elif heading := re.match(r"TASK \[.* : (.*)\]", line):
            task = heading[1]
        elif line.startswith("changed: "):
            item = re.search(r"\(item=(.*?)\)", line)
            changed.append(item[1] if item else task)
    return found


ABLE = pytest.mark.skipif(
    bool(os.geteuid()) or None in (shutil.which("nft"), shutil.which("systemctl")),
    reason="needs root, network namespaces, nft, and a systemctl to stand in for",
)


def run(tmp_path: pathlib.Path, names: Iterable[str], **environment: str) -> tuple[int, str, str]:
    """Plays of these names: the exit status, what was printed, and what is left on the host."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "natlb_return_balancers": [{"mac": "02:00:5e:00:53:01", "gateway": "10.0.0.1"}],
        "natlb_return_ports": ["8080"],
    }
    plays = [
        {
            "name": name,
            "hosts": "web1",
            "gather_facts": False,
            "vars": {"natlb_return_state": "absent" if name == "the removal" else "present"},
            "roles": ["natlb.netfilter.return_path"],
        }
        for name in names
    ]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(plays))
    argv = [
        "unshare",
        "--net",
        "--mount",
        "sh",
        "-ec",
        INSIDE,
        str(tmp_path),
        "sh",
        "-c",
        f'"$@"; status=$?; echo; {LEFT}; exit $status',
        "sh",
    ]
    argv += [str(ROOT / "tools" / "run"), "env", "ANSIBLE_NOCOLOR=1", "ANSIBLE_PIPELINING=1", "ansible-playbook"]
    argv += ["-i", "web1,", "play.yml", "--extra-vars", json.dumps(variables)]
    given = {**os.environ, "WITHOUT_SYSTEMD": "", "WITHOUT_MARKS": "", **environment}
    done = subprocess.run(
        argv, cwd=tmp_path, env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    printed, _blank, left = done.stdout.strip().rpartition("\n\n")
    return done.returncode, printed + done.stderr, left


@ABLE
def test_a_host_without_systemd(tmp_path: pathlib.Path) -> None:
    """It is told so at once, and nothing is changed."""
    status, printed, left = run(tmp_path, ["the first"], WITHOUT_SYSTEMD="yes")
    assert status == 2, printed
    assert (
        "this host does not run systemd, whose units put routes and rules in place at boot (set the routes" in printed
    )
    assert changes(printed) == {"the first": []}
    assert "return" not in left


@ABLE
def test_marks_that_cannot_be_made_fail_the_run_and_leave_routes(tmp_path: pathlib.Path) -> None:
    status, printed, left = run(tmp_path, ["the first"], WITHOUT_MARKS="yes")
    assert status == 2, printed
    assert "gone: marks of natlb_return_balancers" in printed
    assert changes(printed) == {"the first": CHANGES["the first"][:-1]}, printed
    assert "lookup 24701" in left
    assert "default via 10.0.0.1 " in left


@ABLE
def test_a_life(tmp_path: pathlib.Path) -> None:
    status, printed, left = run(tmp_path, CHANGES)
    assert status == 0, printed
    assert changes(printed) == CHANGES, printed
    assert re.findall(r"lookup (.*)|(.*return.*)", left) == [(name, "") for name in ("local", "main", "default")], left
