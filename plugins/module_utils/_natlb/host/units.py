# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of root's, and the systemd units among them: what is to be done, and the doing.

One plan for all of them, since each step over a connection costs more than all that is done here.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from ..errors import ConfigError, HostError
from . import journal, processes, store

#: Where systemd looks for units that an administrator made, see systemd.unit(5).
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/local/lib/systemd/system")
PROPERTIES = ("LoadState", "UnitFileState", "ActiveState", "NeedDaemonReload")
#: What `UnitFileState` can be of a unit that comes up at boot, see systemctl(1), is-enabled.
ENABLED = ("enabled", "static", "alias", "indirect", "generated")
ACTIVE = ("active", "activating", "reloading")


@dataclass(frozen=True)
class File:
    """A file and the text it is to have; None is for one that is there to be removed only."""

    path: str
    content: str | None = None
    mode: int = 0o644


@dataclass(frozen=True)
class Unit:
    """A unit that is to come up at boot. `drift` is a program and its arguments; what it prints differs from what the
    unit has put in place."""

    name: str
    started: bool = False
    restart_after: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A file as it is on the host. `owner` are the numbers of its user and its group."""

    content: str
    mode: int
    owner: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Status:
    """A unit as systemd sees it; `stale` where its files are newer than what systemd has read."""

    known: bool = False
    enabled: bool = False
    active: bool = False
    stale: bool = False

    def __str__(self) -> str:
        return f"{'enabled' if self.enabled else 'disabled'}, {'active' if self.active else 'inactive'}"


@dataclass
class Plan:
    """What separates the host from what is asked for. Commands are arguments of systemctl, around the files."""

    before: list[list[str]] = field(default_factory=list)
    write: list[File] = field(default_factory=list)
    remove: list[str] = field(default_factory=list)
    after: list[list[str]] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.before or self.write or self.remove or self.after)


def parse_files(items: Iterable[Mapping[str, Any]]) -> list[File]:
    """The files as the module's option `files` has them."""
    found = []
    for number, item in enumerate(items):
        place = f"files[{number}]"
        if not os.path.isabs(item["path"]):
            raise ConfigError(f"{place}.path", f"{item['path']} is not an absolute path", "begin it with a slash")
        try:
            mode = int(item["mode"], 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o7777:
            raise ConfigError(f"{place}.mode", f"{item['mode']} is not a mode", "write four octal digits such as 0644")
        found.append(File(item["path"], item["content"], mode))
    return found


def parse_units(items: Iterable[Mapping[str, Any]]) -> list[Unit]:
    """The units as the module's option `units` has them."""
    return [
        Unit(item["name"], bool(item["started"]), tuple(item["restart_after"]), tuple(item["drift"])) for item in items
    ]


# -- what is there ---------------------------------------------------------------------------------------------------


def read_file(path: str) -> Found | None:
    """None where there is no file."""
    content = store.read_text(Path(path))
    if content is None:
        return None
    try:
        status = os.stat(path)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error
    return Found(content, stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))


def systemd_runs() -> bool:
    """See sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def read_statuses(units: Sequence[Unit]) -> list[Status]:
    """The units in the order given."""
    if not units:
        return []
    systemctl = processes.require("systemctl", "systemd")
    argv = [systemctl, "show", f"--property={','.join(PROPERTIES)}", "--", *(unit.name for unit in units)]
    found = parse_statuses(processes.run(argv))
    if len(found) != len(units):
        raise HostError(f"systemctl: asked for {len(units)} units, told of {len(found)} (is systemd running?)")
    return found


def parse_statuses(text: str) -> list[Status]:
    """What `systemctl show` prints of several units: a block of lines for each, with empty lines between them."""
    found = []
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values:
            found.append(
                Status(
                    known=values.get("LoadState") != "not-found",
                    enabled=values.get("UnitFileState") in ENABLED,
                    active=values.get("ActiveState") in ACTIVE,
                    stale=values.get("NeedDaemonReload") == "yes",
                )
            )
    return found


# -- what is to be done ----------------------------------------------------------------------------------------------


def is_unit(path: str) -> bool:
    return os.path.dirname(path) in UNIT_FOLDERS


def outdated(files: Iterable[File], found: Mapping[str, Found | None]) -> list[File]:
    """The files that are not what they are to be: root's, with this text and this mode."""
    return [file for file in files if file.content is not None and found[file.path] != Found(file.content, file.mode)]


def presence(
    files: Sequence[File],
    units: Sequence[Unit],
    found: Mapping[str, Found | None],
    statuses: Sequence[Status],
    drifts: Mapping[str, str],
) -> Plan:
    """The way to files that are there and units that come up at boot.

    `drifts` holds what the programs `drift` have printed, by unit.
    """
    plan = Plan(write=outdated(files, found))
    written = {file.path for file in plan.write}
    now = dict(zip((unit.name for unit in units), statuses))
    reloads = any(map(is_unit, written)) or any(status.stale for status in statuses)
    # A changed unit may ask for a boot target that it did not ask for before.
    changed = {os.path.basename(path) for path in written if is_unit(path)}
    enable = [unit.name for unit in units if not now[unit.name].enabled or unit.name in changed]
    restart = [unit.name for unit in units if written & set(unit.restart_after) or drifts.get(unit.name)]
    start = [unit.name for unit in units if unit.started and not now[unit.name].active and unit.name not in restart]
    commands = (["daemon-reload"] if reloads else [], ["enable", *enable], ["restart", *restart], ["start", *start])
    plan.after = [command for command in commands if len(command) > 1 or command == ["daemon-reload"]]
    plan.diff = [part for file in plan.write for part in file_diff(file, found[file.path])]
    plan.diff += [{"before": text, "after": "", "before_header": name} for name, text in drifts.items() if text]
    for name, status in now.items():
        wanted = Status(known=True, enabled=True, active=status.active or name in start)
        plan.diff += unit_diff(name, status, wanted)
    return plan


def absence(
    files: Sequence[File], units: Sequence[Unit], found: Mapping[str, Found | None], statuses: Sequence[Status]
) -> Plan:
    """The way to a host without any of them. Units stop while their files are still there to say how."""
    plan = Plan(remove=[file.path for file in files if found[file.path] is not None])
    now = dict(zip((unit.name for unit in units), statuses))
    stop = [name for name, status in now.items() if status.active]
    disable = [name for name, status in now.items() if status.enabled]
    plan.before = [command for command in (["stop", *stop], ["disable", *disable]) if len(command) > 1]
    if any(map(is_unit, plan.remove)):
        plan.after = [["daemon-reload"]]
    for path in plan.remove:
        there = found[path]
        plan.diff.append({"before": there.content if there else "", "after": "", "before_header": path})
    for name, status in now.items():
        plan.diff += unit_diff(name, status, Status())
    return plan


def bare_absence(files: Sequence[File], found: Mapping[str, Found | None]) -> Plan:
    """The same where systemd does not run: there are no units, but there may be files."""
    plan = absence(files, [], found, [])
    plan.after = []
    return plan


def file_diff(file: File, there: Found | None) -> list[dict[str, str]]:
    """What Ansible shows: the text, and apart from it whose it is and who may use it."""
    headers = {"before_header": file.path, "after_header": file.path}
    wanted = Found(file.content or "", file.mode)
    before, after = (there.content if there else ""), wanted.content
    parts = [{"before": before, "after": after, **headers}] if before != after else []
    if there and (there.mode, there.owner) != (wanted.mode, wanted.owner):
        parts.append({"before": _attributes(there), "after": _attributes(wanted), **headers})
    return parts


def _attributes(file: Found) -> str:
    return f"mode {file.mode:04o}, owner {file.owner[0]}:{file.owner[1]}\n"


def unit_diff(name: str, now: Status, wanted: Status) -> list[dict[str, str]]:
    if (now.enabled, now.active) == (wanted.enabled, wanted.active):
        return []
    return [{"before": f"{now}\n", "after": f"{wanted}\n", "before_header": name, "after_header": name}]


# -- the doing -------------------------------------------------------------------------------------------------------


def make_plan(files: Sequence[File], units: Sequence[Unit], state: str) -> Plan:
    """Read the host and say what separates it from what is asked for. `state` is present or absent. Touches nothing."""
    found = {file.path: read_file(file.path) for file in files}
    if state == "absent":
        return absence(files, units, found, read_statuses(units)) if systemd_runs() else bare_absence(files, found)
    statuses = read_statuses(units)
    for file in files:
        if file.content is not None and not os.path.isdir(os.path.dirname(file.path)):
            raise HostError(f"{file.path}: there is no folder {os.path.dirname(file.path)}")
    written = {file.path for file in outdated(files, found)}
    drifts = {unit.name: processes.run(unit.drift) for unit in units if unit.drift and not written & set(unit.drift)}
    return presence(files, units, found, statuses, drifts)


def carry_out(plan: Plan, move: Callable[[str, str], None]) -> None:
    """`move` puts a complete new file in the place of another, with whatever labels the host gives to such files."""
    _systemctl(plan.before)
    for file in plan.write:
        _write(file, move)
    for path in plan.remove:
        try:
            os.unlink(path)
        except OSError as error:
            raise HostError(f"{path}: cannot be removed: {error.strerror}") from error
    for folder in {os.path.dirname(path) for path in [*(file.path for file in plan.write), *plan.remove]}:
        store.sync_folder(Path(folder))
    _systemctl(plan.after)


def _systemctl(commands: Iterable[list[str]]) -> None:
    for arguments in commands:
        try:
            processes.run([processes.require("systemctl", "systemd"), "--quiet", *arguments])
        except HostError as error:
            raise HostError(f"{error}{_why(arguments)}") from error


def _why(arguments: Sequence[str]) -> str:
    """What was asked of systemd, and what the units say that could not be started: systemctl says that they failed."""
    verb, *names = arguments
    said = [journal.last_words(name) for name in names] if verb in ("start", "restart") else []
    return "".join(f"; {text}" for text in (f"systemctl {' '.join(arguments)}", *said) if text)


def _write(file: File, move: Callable[[str, str], None]) -> None:
    """Beside the old one first, so that nobody reads half of it."""
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=".natlb-", dir=os.path.dirname(file.path))
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(file.content or "")
            stream.flush()
            os.fsync(stream.fileno())
        move(temporary, file.path)
        os.chown(file.path, 0, 0)
        os.chmod(file.path, file.mode)
    except OSError as error:
        raise HostError(f"{file.path}: cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
