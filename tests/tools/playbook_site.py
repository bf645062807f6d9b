# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two balancers, backends and a controller that is their client, as the playbooks see them: hosts of a fleet.

    controller (10.77.0.1) --- bridge --- lb1 10.77.1.2, lb2 10.77.1.3, web1 10.77.1.4, web2 10.77.1.5, …

The controller reaches the services' addresses through lb1, or through whom a test says. It has no sudo.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for folder in (ROOT / "plugins" / "module_utils", ROOT / "tests" / "drills"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from fleet import Fleet, Member  # noqa: E402
from processes import said  # noqa: E402

VIP, OTHER = "10.99.0.10", "10.99.0.11"
WEB1, WEB2 = "10.77.1.4", "10.77.1.5"
#: What stands in PATH for sudo where a host has it. The connection makes the user root then.
SUDO = '#!/bin/sh\nwhile [ "$1" != /bin/sh ]; do shift; done\nexec "$@"\n'


class Site(Fleet):
    """`declared` is what each of the balancers has in the inventory."""

    def __init__(self, folder: Path, webs: int = 2) -> None:
        names = ["lb1", "lb2", *(f"web{number}" for number in range(1, webs + 1))]
        super().__init__(len(names), folder)
        self.lb1, self.lb2, *self.webs = self.members
        self.web1, self.web2 = self.webs[:2]
        for member, name in zip(self.members, names, strict=True):
            member.name = name
            member.run("sh", "-c", "for file in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 > $file; done")
            member.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        self.variables: dict[str, Any] = {}
        self.own: dict[str, dict[str, Any]] = {}
        self.by(self.lb1)

    def by(self, member: Member, address: str = f"{VIP}/31") -> None:
        """The controller reaches the services through this host."""
        self._in_hub(f"ip route replace {address} via {member.address}")

    def log_in_as_nobody(self) -> None:
        """Hosts with sudo, on which Ansible logs in as a user of no rights."""
        sudo = self.folder / "sudo"
        sudo.write_text(SUDO)
        sudo.chmod(0o755)
        for name in ("lb1", "lb2"):
            self.own[name] = {
                "fleet_uid": 65534,
                "ansible_python_interpreter": "/usr/bin/python3",
                "ansible_become_exe": str(sudo),
            }

    def serve(self, member: Member, script: str) -> None:
        """Start a server. It says `listening` once it does."""
        enter = ["nsenter", f"--target={member.pid}", "--net", "--mount", "--pid"]
        process = self._start(*enter, sys.executable, "-u", "-c", script)
        assert process.stdout
        assert process.stdout.readline() == "listening\n"
        self._open.callback(process.terminate)

    def deploy(self, services: list[dict[str, Any]], *members: Member) -> None:
        """Declared, and so it is done."""
        for member in members or (self.lb1, self.lb2):
            member.balance(services)

    def inventory(self) -> str:
        hosts = {member.name: {**member.variables, **self.own.get(member.name, {})} for member in self.members}
        balancers = {name: hosts.pop(name) for name in ("lb1", "lb2")}
        groups = {"balancers": {"hosts": balancers}, "web": {"hosts": hosts}}
        path = self.folder / "inventory.json"
        path.write_text(json.dumps({"all": {"children": groups, "vars": self.variables}}))
        return str(path)

    def playbook(self, name: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """One of the collection: exit status and all that was printed."""
        return self.play(f"natlb.netfilter.{name}", *arguments, **environment)

    def play(self, playbook: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """The same of any playbook, by its name or as a file in the folder."""
        argv = ["nsenter", f"--target={self.hub}", "--net", str(ROOT / "tools" / "run"), "env"]
        argv += [f"ANSIBLE_CONNECTION_PLUGINS={ROOT / 'tests' / 'drills' / 'connection_plugins'}", "ANSIBLE_NOCOLOR=1"]
        argv += [f"{key}={value}" for key, value in environment.items()]
        argv += ["ansible-playbook", "-i", self.inventory(), playbook, *arguments]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SSH_", "ANSIBLE_"))}
        return said(argv, self.folder, kept)


def recap(printed: str) -> dict[str, bool]:
    """By host, whether it failed."""
    found = re.findall(r"^(\w+) +: ok=\d+ .*?unreachable=(\d+) +failed=(\d+)", printed, re.MULTILINE)
    return {host: unreachable != "0" or failed != "0" for host, unreachable, failed in found}
