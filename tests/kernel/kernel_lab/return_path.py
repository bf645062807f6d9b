# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role `return_path` leaves on a backend, without systemd: its script, rendered from what the host answers."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from .host import Host

ROLE = Path(__file__).resolve().parents[3] / "roles" / "return_path"
#: Where the script keeps what it has put in place; hosts of the lab share the folder.
STATE = "/run/natlb-return-path"


#: Each attempt that fails is a byte of a file. What is there can be listed, and removed.
FAILING = """#!/bin/sh
case $1 in list | delete) ;; *)
    if [ "$(cat {folder}/failed 2>/dev/null | wc -c)" -lt {times} ]; then
        printf x >>{folder}/failed
        exit 1
    fi
    ;;
esac
exec {program} "$@"
"""
#: In a process of its own: Ansible takes over how its collections are imported, for all tests that follow.
RENDER = """
import json, sys
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
role, name, given = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
init_plugin_loader()
loader = DataLoader()
loader.set_basedir(role)
variables = {}
for part in ("defaults", "vars"):
    variables |= loader.load_from_file(f"{role}/{part}/main.yml", cache="none")
variables |= {"natlb_return_install": {}, "ansible_check_mode": False, "ansible_search_path": [role], **given}
print(Templar(loader, variables).template(variables[name]), end="")
"""


@functools.cache
def _rendered(name: str, given: str) -> str:
    argv = [sys.executable, "-c", RENDER, str(ROLE), name, given]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


class ReturnPath:
    """The role on one host of the lab."""

    def __init__(self, host: Host, folder: Path, **given: Any) -> None:
        self._host, self._file = host, folder / f"{host.name}.sh"
        # The first line of the answer names the distribution, by the release of this machine.
        answer = host.run("sh", "-c", _rendered("natlb_return_question", json.dumps(given)))
        answered = {"natlb_return_host": {"stdout_lines": answer.splitlines()}}
        text = _rendered("natlb_return_script_text", json.dumps({**given, **answered}))
        self._state = folder / f"{host.name}.state"
        self._file.write_text(text.replace(STATE, str(self._state)))

    def run(self, what: str) -> str:
        """`up` or `down`, and what it printed."""
        return self._host.run("sh", str(self._file), what)

    def drift(self) -> tuple[int, list[str]]:
        """The exit status, and the lines."""
        told = self._host.run("sh", "-c", f"sh {self._file} drift; echo $?")
        *lines, status = told.splitlines()
        return int(status), lines

    def forget(self) -> None:
        """What it has noted is gone, as after a boot."""
        shutil.rmtree(self._state)

    def has_waited(self) -> None:
        """It waits for addresses no longer, as if it had done so for nearly as long as it may."""
        text = self._file.read_text()
        assert "\nwait_s=30\n" in text
        self._file.write_text(text.replace("\nwait_s=30\n", "\nwait_s=1\n"))

    def failing(self, program: str, times: int) -> None:
        """This program fails so often from now on, where it makes something."""
        folder = self._file.parent / "failing"
        folder.mkdir()
        (folder / program).write_text(FAILING.format(folder=folder, times=times, program=shutil.which(program)))
        (folder / program).chmod(0o755)
        self._file.write_text(self._file.read_text().replace(" PATH=", f" PATH={folder}:"))
