# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pieces of the host that a run looks after: kernel settings, routes of uplinks, rules."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Callable

from ..host import iproute, proc, sysctl
from ..host.processes import Command
from ..model import tracking
from ..model.engine import Engine
from ..model.entities import Config
from ..model.outbound import Uplink
from ..packets import FAMILIES
from ..ruleset.sections import Ruleset, compare
from ..ruleset.transaction import Transaction
from . import forwarding, routing
from .request import Request


def _nothing() -> None:
    return None


def _no_way_back(_now: Ruleset) -> list[Command]:
    return []


@dataclass
class Part:
    """One piece of the host: what it is, what it is to be, and how to get there.

    `commit` is what this process does itself, before anything else; `commands` of all parts are run by one process that
    a kill of this one leaves alone.
    """

    live: Ruleset
    wanted: Ruleset
    commands: Callable[[], list[Command]] = list
    #: What turns a state of it back into `live`. Before the change that state is `wanted`; after one that failed it is
    #: what the host says (`reread`).
    undo: Callable[[Ruleset], list[Command]] = _no_way_back
    #: The same by changing no more than what differs. It may fail where `undo` would not.
    undo_in_place: Callable[[Ruleset], list[Command]] | None = None
    reread: Callable[[], Ruleset] | None = None
    commit: Callable[[], None] = _nothing
    #: How many commits of nf_tables its commands make.
    commits: Callable[[], int] = int
    #: Why this host cannot be brought there; empty where it can.
    obstacle: str = ""
    #: Whether it is the rules of an engine.
    of_engine: bool = False
    #: What the undoing of a change leaves behind, as a sentence; empty where it is nothing.
    residue: Callable[[], str] = str

    @cached_property
    def differs(self) -> bool:
        """Whether there is anything to do. Neither state of a part is changed once it is made."""
        return bool(compare(self.live, self.wanted))

    def drift(self) -> Ruleset | None:
        """What this piece is now, where that is not what it was."""
        now = self.reread() if self.reread is not None else self.live
        return now if compare(now, self.live) else None


def sysctls(request: Request) -> dict[str, str]:
    """The kernel settings that the run is to see to. The size of a table that only the machine itself can set, as from
    within a container, is not asked for unless the user does."""
    found = forwarding.settings(request.config, request.before) if request.forwarding else {}
    found.update(routing.sysctls(request.config))
    current = {name: sysctl.number(name) for name in tracking.names()}
    sizes = tracking.settings(request.tracking, proc.memory_bytes(), current, os.sysconf("SC_PAGE_SIZE"))
    # Without the module that has the table there is nothing yet that could be written.
    missing = request.expected and not sysctl.get(tracking.names()[0])
    if request.tracking.entries == 0 and not missing and not all(sysctl.writable(name) for name in sizes):
        sizes = {name: value for name, value in sizes.items() if name not in tracking.names()}
    return {**found, **sizes}


def sysctl_part(settings: Mapping[str, str], expected: bool = False) -> Part:
    """Settings are put on, never off: whether something else needs them is not ours to know.

    Those of an interface that is not there now wait for it: they are among what is kept for the next boot. `expected`:
    what else is not there yet comes with the module of the kernel that the rules will load.
    """
    live = {name: sysctl.get(name) or "" for name in settings}
    settings = {name: value for name, value in settings.items() if live[name] or not forwarding.interface_of(name)}
    live = {name: live[name] for name in settings}

    def reread() -> Ruleset:
        return forwarding.section({name: sysctl.get(name) or "" for name in settings})

    missing = {name: value for name, value in settings.items() if live[name] != value}
    obstacles = []
    for name, value in missing.items():
        if not live[name] and expected:
            continue
        if not live[name]:
            obstacles.append(f"sysctl {name}: this kernel or this host has no such setting")
        elif not sysctl.writable(name):
            obstacles.append(
                f"sysctl {name} is {live[name]} and cannot be written here; set it to {value} on the machine itself, "
                f"or unmask /proc/sys for this container"
            )

    def commit() -> None:
        for name, value in missing.items():
            sysctl.write(name, value)

    def undo(_now: Ruleset) -> list[Command]:
        return [(f"cat > {shlex.quote(sysctl.path(name))}", live[name]) for name in missing]

    sections = forwarding.section(live), forwarding.section(settings)
    return Part(*sections, undo=undo, reread=reread, commit=commit, obstacle="\n".join(obstacles))


def uplinks_part(config: Config, previous: Config, without: Sequence[Uplink]) -> Part:
    """Rules and tables for uplinks; read only where there are or were some. `without`: those that cannot have a route
    now. They keep one that they have."""
    every = routing.render(config)

    def reread() -> Ruleset:
        found: Ruleset = {}
        if not config.uplinks() and not previous.uplinks():
            return found
        most = max(len(config.uplinks()), len(previous.uplinks()))
        ways = [key for ruleset in (every, routing.render(previous)) for key in ruleset if key.kind == "route"]
        for family in FAMILIES:
            found.update(routing.parse_rules(family, iproute.query(family, "rule", "show"), most))
            for table in sorted({key.name for key in ways if key.family == family}):
                routes = iproute.query(family, "route", "show", "table", table)
                found.update(routing.parse_routes(family, int(table), routes))
        return found

    live, possible = reread(), routing.render(config, without)
    wanted = {key: section for key, section in every.items() if key in possible or live.get(key) == section}
    return Part(
        live,
        wanted,
        lambda: iproute.batch(routing.batch(live, wanted)),
        lambda now: iproute.batch(routing.batch(live=now, wanted=live)),
        reread=reread,
    )


def engine_part(engine: Engine, live: Ruleset, wanted: Ruleset, transaction: Callable[[], Transaction]) -> Part:
    """The rules of an engine."""
    return Part(
        live,
        wanted,
        lambda: engine.commands(transaction()),
        lambda now: engine.undo(live, now),
        undo_in_place=lambda now: engine.undo_in_place(live, now),
        reread=engine.listed,
        residue=engine.residue,
        commits=lambda: engine.commits(transaction()),
        of_engine=True,
    )


def other_engine_part(engine: Engine, live: Ruleset) -> Part:
    """What another engine has left, to be removed."""
    transaction = engine.plan(live, {}, {})
    return engine_part(engine, live, {}, lambda: transaction)
