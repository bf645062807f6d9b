# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role `return_path` leaves on a backend, without systemd: its script, rendered from what the host answers."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar

from .host import Host

ROLE = Path(__file__).resolve().parents[3] / "roles" / "return_path"
#: Where the script keeps what it has put in place; hosts of the lab share the folder.
STATE = "/run/natlb-return-path"


@functools.cache
def _load_plugins() -> None:
    init_plugin_loader()


class ReturnPath:
    """The role on one host of the lab."""

    def __init__(self, host: Host, folder: Path, **given: Any) -> None:
        _load_plugins()
        self._host, self._file = host, folder / f"{host.name}.sh"
        loader = DataLoader()
        loader.set_basedir(str(ROLE))
        variables: dict[str, Any] = {}
        for part in ("defaults", "vars"):
            variables |= loader.load_from_file(str(ROLE / part / "main.yml"), cache="none")
        variables |= {"natlb_return_install": {}, "ansible_check_mode": False, "ansible_search_path": [str(ROLE)]}
        variables |= given
        # The first line of the answer names the distribution, by the release of this machine.
        templar = Templar(loader, variables)
        answer = host.run("sh", "-c", templar.template(variables["natlb_return_question"]))
        templar.available_variables = {**variables, "natlb_return_host": {"stdout_lines": answer.splitlines()}}
        text = str(templar.template(variables["natlb_return_script_text"]))
        self._state = folder / f"{host.name}.state"
        self._file.write_text(text.replace(STATE, str(self._state)))

    def run(self, what: str) -> str:
        """`up`, `down` or `drift`, and what it printed."""
        return self._host.run("sh", str(self._file), what)

    def forget(self) -> None:
        """What it has noted is gone, as after a boot."""
        shutil.rmtree(self._state)

    def without(self, program: str) -> None:
        """This program fails from now on."""
        folder = self._file.parent / "failing"
        folder.mkdir()
        (folder / program).write_text("#!/bin/sh\nexit 1\n")
        (folder / program).chmod(0o755)
        self._file.write_text(self._file.read_text().replace(" PATH=", f" PATH={folder}:"))
