# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who manages the machine: Ansible over ssh, with sudo, with an inventory as a user writes it."""

from __future__ import annotations

import itertools
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image import USER
from machine import Machine

CHECKOUT = Path(__file__).resolve().parents[2]
RUN_TIMEOUT_S = 900


@dataclass(frozen=True)
class Run:
    """What a run of a playbook said, and what it changed: a list of tasks, as the callback natlb_record has them."""

    status: int
    said: str
    changes: list[dict[str, Any]]


class Controller:
    """The checkout on this machine, in the namespace of the lab's client."""

    def __init__(self, machine: Machine, folder: Path, *others: Machine) -> None:
        self.machine, self._folder = machine, folder
        self._numbers = itertools.count()
        self.inventory = folder / "inventory"
        (self.inventory / "group_vars").mkdir(parents=True, exist_ok=True)
        hosts = {one.seat.name: _reached(one) for one in (machine, *others)}
        (self.inventory / "hosts.yml").write_text(json.dumps({"balancers": {"hosts": hosts}}))

    def declare(self, **variables: Any) -> None:
        """What group_vars/balancers.yml says from now on."""
        # A change that is verified waits longer for whoever does not confirm it, and some tests wait for its end.
        given = {"verify_each": False, **variables}
        text = json.dumps({f"natlb_{key}": value for key, value in given.items()})
        (self.inventory / "group_vars" / "balancers.yml").write_text(text)

    def run(self, playbook: str, *words: str) -> Run:
        """Run `natlb.netfilter.PLAYBOOK` to its end."""
        records = self._folder / f"records.{next(self._numbers)}"
        records.mkdir()
        done = subprocess.run(
            self._argv(playbook, records, *words),
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        changes = [change for path in records.glob("*.json") for change in json.loads(path.read_text())["changes"]]
        return Run(done.returncode, done.stdout, changes)

    def begin(self, playbook: str, *words: str) -> subprocess.Popen[bytes]:
        """The same, not waited for."""
        argv = self._argv(playbook, self._folder / "records", *words)
        return subprocess.Popen(
            argv, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def _argv(self, playbook: str, records: Path, *words: str) -> list[str]:
        settings = ["env", "ANSIBLE_TIMEOUT=60", f"ANSIBLE_SSH_CONTROL_PATH_DIR={self.machine.folder}/cp"]
        settings += [f"NATLB_RECORD_DIR={records}", "NO_COLOR=1", "ANSIBLE_NOCOLOR=1"]
        argv = [*self.machine.inside(), *settings, "tools/run", "ansible-playbook", f"--inventory={self.inventory}"]
        return [*argv, f"natlb.netfilter.{playbook}", *words]


def _reached(machine: Machine) -> dict[str, Any]:
    """Variables of a host."""
    ssh = " ".join(f"-o {key}={value}" for key, value in machine.ssh().items())
    return {
        "ansible_host": machine.address,
        "ansible_user": USER,
        "ansible_become": True,
        "ansible_ssh_args": f"-F none {ssh}",
        "ansible_python_interpreter": "/usr/bin/python3",
    }
