# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program on a host: among the files that boot, with a command in the path of root, and a unit that runs it as the
agent where one is needed."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import HostError
from ..host import agent_socket, boot_set, service_manager, staging, store, unix_socket
from ..host.observation import observed
from ..host.staging import Entry
from ..host.store import AGENT_SOCKET, Content
from ..model.entities import Service
from ..model.metrics import Metrics
from .request import Request
from .unit_files import PROGRAM, WRITTEN, AgentUnit


def runs(request: Request) -> bool:
    """Whether the agent is to run on this host."""
    asked = request.agent or request.metrics.published
    return (asked and not request.config.empty) or any(map(_needs_agent, request.config.services))


def _needs_agent(service: Service) -> bool:
    return service.health is not None or service.method == "least_connections"


def files(request: Request, live: Mapping[str, Content]) -> dict[str, Content]:
    """The program. Whoever brings none, such as a look at the host, leaves the one that is there."""
    if request.program is not None:
        return {PROGRAM: (request.program(), 0o700)}
    return {PROGRAM: live[PROGRAM]} if PROGRAM in live else {}


#: The line of a kept request (`request.state_text`).
_METRICS = re.compile(r'^"metrics": (.*),$', re.MULTILINE)
_NO_FOLDER = "metrics.directory: {} is not there, so no metrics are written (make it, or install node_exporter)"
#: So long who shows the state of the host waits for the agent to say what is wrong.
_PATIENCE_S = 1.0


def unit(request: Request, boots: Mapping[str, Content]) -> AgentUnit | None:
    """What its unit depends on, where the program is among the files that boot. The Python is that of this run."""
    if PROGRAM not in boots or not runs(request):
        return None
    programs = any(s.health is not None and s.health.type == "command" for s in request.config.services)
    return AgentUnit(_python(), programs, request.metrics.directory)


def _python() -> str:
    return sys.executable or "/usr/bin/python3"


def command_path(system: Path) -> Path:
    """Where an operator finds the program."""
    return system / "usr/local/sbin" / PROGRAM


def command(request: Request, boots: Mapping[str, Content], live: Mapping[Path, Entry]) -> dict[Path, Entry]:
    """What runs the program with the Python of this run, where there is room for it. A link would not do: what is below
    /etc cannot be executed on every host."""
    if request.paths.system is None or PROGRAM not in boots:
        return {}
    path = command_path(request.paths.system)
    if is_of_others(path, live.get(path)) or not staging.is_writable(path.parent):
        return {}
    program = request.paths.etc / boot_set.CURRENT / PROGRAM
    text = _COMMAND.format(written=WRITTEN, python=shlex.quote(_python()), program=shlex.quote(str(program)))
    return {path: (text, 0o755)}


def is_of_others(path: Path, entry: Entry | None) -> bool:
    """Whether somebody else has a program of this name."""
    is_command = path.parts[-3:] == ("local", "sbin", PROGRAM)
    return is_command and entry is not None and (isinstance(entry, str) or WRITTEN not in entry[0])


_COMMAND = """\
#!/bin/sh
{written}
[ "$(id -u)" -eq 0 ] || {{ echo 'natlb: only root may do this (sudo natlb)' >&2; exit 1; }}
exec {python} -I {program} "$@"
"""


def warnings(request: Request, systemd: bool) -> list[str]:
    """Why the agent does not run where it is to, and why it has nowhere to write."""
    if not runs(request):
        return []
    folder = request.metrics.directory
    missing = folder is not None and not store.exists(folder)
    return [*_absent(request, systemd), *([_NO_FOLDER.format(folder)] if missing else [])]


def _absent(request: Request, systemd: bool) -> list[str]:
    if request.paths.system is None:
        return []
    if not request.persist:
        without = "backends are taken as healthy, and least_connections takes them in turn"
        return [f"agent: it does not run with persist: false; {without}"]
    if not systemd and not _is_served(str(request.paths.run / AGENT_SOCKET)):
        program = request.paths.etc / "current" / PROGRAM
        run = f"`python3 -I -OO {program} agent` as root, and start it again when it ends"
        why = "systemd does not run here, and no agent does, so nobody checks backends"
        return [f"agent: {why} (have a supervisor run {run})"]
    return []


def answers(request: Request) -> bool | None:
    """Whether the agent runs now; None where it need not."""
    if not (runs(request) and request.persist):
        return None
    return _is_served(str(request.paths.run / AGENT_SOCKET))


@observed
def _is_served(path: str) -> bool:
    return unix_socket.is_served(Path(path))


def troubles(request: Request) -> list[str]:
    """What is wrong with the agent. Where it should run, and nobody listens at its socket, health is of the past."""
    there = answers(request)
    if there is False:
        without = "nobody checks backends, and nobody restores rules"
        return [f"the agent does not answer: {without} ({service_manager.says_how()})"]
    found: list[str] = []
    if there:
        # One that is busy, or of an earlier version, says nothing.
        with contextlib.suppress(HostError):
            found = agent_socket.asked(request.paths.run / AGENT_SOCKET, agent_socket.TROUBLES, _PATIENCE_S)
    return found


def remove_left_metrics(former: str | None, request: Request) -> None:
    """Remove what the agent may have written once more before it was stopped. Raises `HostError`."""
    for path in left_metrics(former, request):
        store.remove(path)


def left_metrics(former: str | None, request: Request) -> dict[Path, Entry]:
    """The file of metrics that nobody writes any more, though the `former` request says that somebody did. What is in
    it is of no interest."""
    # Of ten thousand services behind it in the text nothing need be read.
    line = _METRICS.search(former or "")
    try:
        kept = json.loads(line[1])["directory"] if line else None
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(kept, str) or (kept == request.metrics.directory and runs(request)):
        return {}
    path = Metrics(directory=kept).file
    return {Path(path): ("", 0o644)} if path and store.exists(path) else {}
