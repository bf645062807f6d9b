# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd: the state of units, and the orders that a run gives for them.

Files decide whether a unit starts at boot (`staging.py`). This file is about the running systemd.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import HostError
from . import journal, processes
from .observation import observed

PROPERTIES = ("ActiveState", "NeedDaemonReload")
ACTIVE = ("active", "activating", "reloading")


@dataclass(frozen=True)
class Status:
    """A unit as systemd sees it; `stale` where its files are newer than what systemd has read."""

    active: bool = False
    stale: bool = False


@dataclass(frozen=True)
class Orders:
    """What systemd is told once files are in place, in the order of the fields: what loads the rules comes before what
    runs beside it. `active` are the units that were active before."""

    stop: tuple[str, ...] = ()
    reload: bool = False
    start: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    active: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stop or self.reload or self.restart or self.start)


def load(kept: Mapping[str, Any]) -> Orders:
    """Orders from what `dataclasses.asdict` made of them, by way of JSON."""
    names = {name: tuple(kept[name]) for name in ("stop", "start", "restart", "active")}
    return Orders(reload=bool(kept["reload"]), **names)


@observed
def systemd_runs() -> bool:
    """See sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


@observed
def statuses(names: Sequence[str]) -> dict[str, Status]:
    """The units, by name."""
    systemctl = processes.require("systemctl", "systemd")
    found = parse(processes.run([systemctl, "show", f"--property={','.join(PROPERTIES)}", "--", *names]))
    if len(found) != len(names):
        raise HostError(f"systemctl: asked for {len(names)} units, told of {len(found)} (is systemd running?)")
    return dict(zip(names, found))


def parse(text: str) -> list[Status]:
    """What `systemctl show` prints of several units: a block of lines for each, with empty lines between them."""
    found = []
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values:
            found.append(Status(values.get("ActiveState") in ACTIVE, values.get("NeedDaemonReload") == "yes"))
    return found


def stop(orders: Orders) -> None:
    """Stop units that are to go."""
    if orders.stop:
        _systemctl("stop", *orders.stop)


def reload() -> None:
    """Have systemd read all units anew."""
    _systemctl("daemon-reload")


def start(orders: Orders) -> None:
    """Start and restart what is to be active. Raises `HostError` with what the units wrote to the journal."""
    for verb, names in (("start", orders.start), ("restart", orders.restart)):
        if names:
            _systemctl(verb, *names)


def undo(orders: Orders, oneshots: Sequence[str]) -> None:
    """Undo the orders, behind the files and a reload. Nothing that fails here keeps the rest from being undone.

    Those that run once, `oneshots`, are not started again: they would load rules, and the rules have their own way
    back.
    """
    touched = [*orders.stop, *orders.restart, *orders.start]
    again = [name for name in touched if name in orders.active and name not in oneshots]
    ended = [name for name in touched if name not in orders.active]
    for arguments in (["restart", *again], ["stop", *ended], ["reset-failed", *ended]):
        if len(arguments) > 1:
            with contextlib.suppress(HostError):
                _systemctl(*arguments)


def _systemctl(*arguments: str) -> None:
    try:
        processes.run([processes.require("systemctl", "systemd"), "--quiet", *arguments])
    except HostError as error:
        raise HostError(f"{error}{_why(*arguments)}") from error


def _why(verb: str, *names: str) -> str:
    """What was asked of systemd, and what the units say that could not be started: systemctl says that they failed."""
    said = [journal.last_log_lines(name) for name in names] if verb in ("start", "restart") else []
    return "".join(f"; {text}" for text in (" ".join(["systemctl", verb, *names]), *said) if text)
