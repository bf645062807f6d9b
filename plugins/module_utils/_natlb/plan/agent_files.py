# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent needs on a host: the program, among the files that boot, and a unit that runs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from ..host.store import Content
from ..model.entities import Service
from .request import Request
from .unit_files import PROGRAM, AgentUnit


def runs(request: Request) -> bool:
    """Whether the agent is to run on this host."""
    return (request.agent and not request.config.empty) or any(map(_needs_agent, request.config.services))


def _needs_agent(service: Service) -> bool:
    return service.health is not None or service.method == "least_connections"


def files(request: Request, live: Mapping[str, Content]) -> dict[str, Content]:
    """The program. Whoever brings none, such as a look at the host, leaves the one that is there."""
    if not runs(request):
        return {}
    if request.program is not None:
        return {PROGRAM: (request.program(), 0o700)}
    return {PROGRAM: live[PROGRAM]} if PROGRAM in live else {}


def unit(request: Request, boots: Mapping[str, Content]) -> AgentUnit | None:
    """What its unit depends on, where the program is among the files that boot. The Python is that of this run."""
    if PROGRAM not in boots:
        return None
    programs = any(s.health is not None and s.health.type == "command" for s in request.config.services)
    return AgentUnit(sys.executable or "/usr/bin/python3", programs)


def warnings(request: Request, systemd: bool) -> list[str]:
    """Why the agent does not run where it is to."""
    if not runs(request) or request.paths.system is None:
        return []
    if not request.persist:
        without = "backends are taken as healthy, and least_connections takes them in turn"
        return [f"agent: it does not run with persist: false; {without}"]
    if not systemd:
        program = request.paths.etc / "current" / PROGRAM
        return [f"agent: systemd does not run here, so no unit runs it (have `python3 {program} agent` run)"]
    return []
