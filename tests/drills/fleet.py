# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many hosts at once: namespaces on one bridge, to which a controller connects over TCP.

    controller (10.77.0.1) --- bridge --- 10.77.1.1, 10.77.1.2, …

Everything is in network namespaces of its own; the machine's own network and files are not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _natlb.plan import balance

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PORT = 2222
BOOT_TIMEOUT_S = 60


@dataclass
class Member:
    """One host: `pid` is its first process, as the machine numbers it."""

    name: str
    address: str
    pid: int

    @property
    def variables(self) -> dict[str, Any]:
        """What an inventory says of how Ansible reaches it."""
        return {
            "ansible_host": self.address,
            "ansible_port": PORT,
            "ansible_connection": "natlb_namespace",
            "ansible_python_interpreter": sys.executable,
            "fleet_pid": self.pid,
        }

    def run(self, *argv: str, text: str = "", check: bool = True) -> str:
        """What a program on the host printed."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--pid"]
        done = subprocess.run(
            [*enter, *argv], input=text, capture_output=True, text=True, timeout=BOOT_TIMEOUT_S, check=False
        )
        assert not check or not done.returncode, done.stderr
        return done.stdout

    def balance(self, services: Sequence[dict[str, Any]], engine: str = "nftables", **options: Any) -> None:
        """What the module does, with no controller."""
        self.plan("balance", "balance", services=services, engine=engine, **options)

    def plan(self, module: str, function: str, **options: Any) -> None:
        """Call a function of the core's wing `plan` on the host."""
        script = f"import json, sys; sys.path.insert(0, sys.argv[1]); from _natlb.plan.{module} import {function}; "
        script += f"{function}(**json.load(sys.stdin))"
        self.run(sys.executable, "-c", script, str(Path(balance.__file__).parents[2]), text=json.dumps(options))

    def state(self) -> str:
        """Rules without counters, and the files for the next boot."""
        show = "nft --stateless list ruleset; cd /etc/natlb 2>/dev/null && grep -r . . || true"
        return self.run("sh", "-c", show)

    def waiting(self) -> bool:
        """Whether a change waits there to be confirmed."""
        return bool(self.run("sh", "-c", "ls -d /run/natlb/rollback.* 2>/dev/null || true"))


class Fleet:
    """So many hosts, and the controller's own namespace, `hub`."""

    def __init__(self, size: int, folder: Path) -> None:
        self.folder = folder
        self._open = contextlib.ExitStack()
        try:
            # It speaks from within its namespace: entered any earlier, its process would still be in the machine's own.
            hub = self._start("unshare", "--net", "sh", "-c", "echo listening; exec cat")
            _expect(hub)
            self.hub = hub.pid
            self._in_hub("ip link set lo up; ip link add fleet type bridge; ip link set fleet up")
            self._in_hub("ip address add 10.77.0.1/16 dev fleet")
            namespaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
            host = (sys.executable, str(HERE / "fleet_host.py"), str(PORT))
            started = [self._start("unshare", *namespaces, *host) for _unused in range(size)]
            self.members = [self._member(number, process) for number, process in enumerate(started, 1)]
        except BaseException:
            self.close()
            raise

    def _start(self, *argv: str) -> subprocess.Popen[str]:
        """Ends with its standard input, so with this process."""
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._open.enter_context(process)
        return process

    def _in_hub(self, script: str) -> None:
        subprocess.run(["nsenter", f"--target={self.hub}", "--net", "sh", "-ec", script], check=True)

    def _member(self, number: int, process: subprocess.Popen[str]) -> Member:
        _expect(process)
        pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        member = Member(f"lb{number}", f"10.77.{1 + number // 250}.{1 + number % 250}", pid)
        self._in_hub(
            f"ip link add up{number} type veth peer name eth0 netns {pid}; ip link set up{number} master fleet up"
        )
        member.run(
            "ip", "-batch", "-", text=f"link set lo up\nlink set eth0 up\naddr add {member.address}/16 dev eth0\n"
        )
        return member

    def play(self, services: dict[str, list[dict[str, Any]]], forks: int, rollback_after_s: int) -> tuple[str, float]:
        """One playbook for all: `services` by name of the host. What Ansible printed, and how many seconds it took."""
        hosts = {member.name: {**member.variables, "services": services[member.name]} for member in self.members}
        task = {
            "services": "{{ services }}",
            "engine": "nftables",
            "allow_management_port": True,
            "rollback_after": rollback_after_s,
        }
        play = {"hosts": "all", "gather_facts": False, "tasks": [{"natlb.netfilter.balancer": task}]}
        (self.folder / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts}}))
        (self.folder / "playbook.yml").write_text(json.dumps([play]))
        argv = ["nsenter", f"--target={self.hub}", "--net", str(ROOT / "tools" / "run"), "env"]
        argv += [f"ANSIBLE_CONNECTION_PLUGINS={HERE / 'connection_plugins'}", "ansible-playbook", f"--forks={forks}"]
        argv += [f"--inventory={self.folder}/inventory.json", f"{self.folder}/playbook.yml"]
        started = time.monotonic()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SSH_")}
        done = subprocess.run(
            argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False
        )
        return done.stdout + done.stderr, time.monotonic() - started

    def close(self) -> None:
        """The hosts first, for the hub's bridge goes with the hub. All of a host goes with its first process."""
        self._open.close()


def _expect(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    assert process.stdout.readline() == "listening\n"


@contextlib.contextmanager
def fleet(size: int, folder: Path) -> Iterator[Fleet]:
    made = Fleet(size, folder)
    try:
        yield made
    finally:
        made.close()
