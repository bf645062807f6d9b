# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health checks that cannot be made on this host. The agent says the same, but only in the journal. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Callable

from ..model.entities import Config
from ..model.health import Health

#: How many services a message names.
_NAMED = 3


def warnings(
    config: Config, local: Collection[str], has_program: Callable[[str], bool], has_user: Callable[[str], bool]
) -> Iterator[str]:
    """A warning for each thing that is missing, with the services that need it.

    `local` are the addresses of this host.
    """
    concerned: dict[str, list[str]] = {}
    for service in config.services:
        for problem in _problems(service.health, local, has_program, has_user) if service.health else ():
            concerned.setdefault(problem, []).append(service.name)
    for problem, names in concerned.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"service {', '.join(names[:_NAMED])}{more}: {problem}"


def _problems(
    health: Health, local: Collection[str], has_program: Callable[[str], bool], has_user: Callable[[str], bool]
) -> Iterator[str]:
    unchecked = "so nobody checks its backends"
    if health.type == "command":
        if not has_program(health.argv[0]):
            yield f"health.argv: {health.argv[0]} is no program of this host, {unchecked} (install it)"
        if not has_user(health.user):
            yield f"health.user: this host has no user {health.user}, {unchecked} (add it, or name another one)"
    if health.source and health.source not in local:
        yield f"health.source: {health.source} is no address of this host, {unchecked} (add it, or leave it out)"
