# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commit and confirm: a change that nobody confirms undoes itself.

Before the change a script is left on the host that puts the former rules back, and a timer that starts it. Who still
reaches the host confirms, over a new connection; only then are the files for the next boot written. So whatever happens
in between (no way in any more, a killed run, a reboot) the host ends with the former rules or with confirmed ones.

The script and the confirmation race for one file, `pending`: whoever renames it first wins, and rename(2) is atomic.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import kernel, store
from .errors import HostError
from .kernel import Command
from .store import Content, Paths

UNIT = "natlb-rollback"
#: The longest time, in seconds, that a change may wait for its confirmation.
LONGEST_S = 300
SETTLE_TIMEOUT_S = LONGEST_S + 30.0
#: How long a timer may be late before the next run does its work.
GRACE_S = 3.0
#: One per change, named by its token: a timer that comes too late finds nothing, never the script of a later change.
DIRECTORY = "rollback.{token}"
UNDONE = "undone"
_PENDING, _CONFIRMED, _STAGED, _SCRIPT = "pending", "confirmed", "staged.json", "undo"

#: The lock keeps a run that begins at this very moment from planning with rules that are about to go.
_HEAD = """#!/bin/sh
# Written by natlb.netfilter: puts the rules of before an unconfirmed change back.
export PATH={path}
umask 077
cd {directory} || exit 0
exec 9>>{lock}
flock --timeout 30 9 || true
mv {pending} undoing 2>/dev/null || exit 0
exec 2>complaints
"""
_TAIL = """
date --utc +'%Y-%m-%d %H:%M:%S UTC' > {undone}
[ -s complaints ] && {{ echo 'but not in everything:'; cat complaints; }} >> {undone}
cd / && rm -rf {directory}
"""


def arm(paths: Paths, after_s: int, commands: Sequence[Command], staged: Mapping[Path, Content | None]) -> str:
    """Leave the script and its timer on the host. Returns the token that `confirm` takes.

    `commands` undo the change, in order; `staged` are the files to write (text and mode) or to remove (None) once it is
    confirmed.
    """
    disarm(paths)
    token = os.urandom(8).hex()
    directory = _directory(paths, token)
    store.make_directory(directory)
    names = {"directory": directory, "lock": paths.run / "lock", "pending": _PENDING, "undone": paths.run / UNDONE}
    names["path"] = kernel.PATH
    quoted = {key: shlex.quote(str(value)) for key, value in names.items()}
    lines = [_HEAD.format(**quoted)]
    for number, (command, text) in enumerate(commands):
        store.write_text(directory / f"undo.{number}", text)
        lines.append(f"{command} < undo.{number}\n")
    store.write_text(directory / _SCRIPT, "".join(lines) + _TAIL.format(**quoted), 0o700)
    kept = {str(path): content for path, content in staged.items()}
    store.write_text(directory / _STAGED, json.dumps(kept))
    store.write_text(directory / _PENDING, str(time.monotonic() + after_s))
    store.remove(paths.run / UNDONE)
    try:
        _start_timer(directory / _SCRIPT, after_s, f"{UNIT}-{token}")
    except HostError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return token


def _directory(paths: Paths, token: str) -> Path:
    return paths.run / DIRECTORY.format(token=token)


def _start_timer(script: Path, after_s: int, unit: str) -> None:
    """With systemd a timer of its own, which outlives this process, its session and its container's exec."""
    if os.path.isdir("/run/systemd/system") and kernel.find("systemd-run"):
        argv = [kernel.require("systemd-run", "systemd"), "--quiet", "--collect", f"--unit={unit}"]
        argv += [f"--on-active={after_s}", "--timer-property=AccuracySec=100ms", str(script)]
        kernel.run(argv)
        return
    # The clock of `sleep` is the monotonic one: setting the time neither hastens nor delays it.
    subprocess.Popen(
        ["/bin/sh", "-c", 'sleep "$1"; exec "$2"', "natlb-rollback", str(after_s), str(script)],
        start_new_session=True,
        close_fds=True,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def confirm(paths: Paths, token: str) -> None:
    """Keep the change: stop the timer and write the files for the next boot.

    Raises `HostError` where the host has gone back already, where another run has made a change of its own, or where
    the files cannot be written: the timer then does its work.
    """
    if not token.isalnum():
        raise HostError(f"{token!r} is not a token")
    directory = _directory(paths, token)
    with store.lock(paths):
        try:
            os.rename(directory / _PENDING, directory / _CONFIRMED)
        except FileNotFoundError:
            raise HostError(_too_late(paths)) from None
        staged = store.read_json(directory / _STAGED)
        try:
            store.write_all({Path(name): content and (content[0], content[1]) for name, content in staged.items()})
        except HostError:
            os.rename(directory / _CONFIRMED, directory / _PENDING)
            raise
        disarm(paths)
        store.remove_if_unused(paths)


def _too_late(paths: Paths) -> str:
    undone = store.read_text(paths.run / UNDONE)
    if undone is None:
        return "this change is not waiting to be confirmed: another run has replaced it, or the host was rebooted"
    when = " ".join(undone.split())
    return f"nobody confirmed the change in time, so the host went back to its former rules ({when})"


def disarm(paths: Paths) -> None:
    """Forget a change that waits for its confirmation, without undoing it."""
    for directory in _directories(paths):
        store.remove(directory / _PENDING)
        if os.path.isdir("/run/systemd/system") and kernel.find("systemctl"):
            timer = f"{UNIT}-{directory.name.partition('.')[2]}.timer"
            # 5: there is no such unit any more.
            kernel.run([kernel.require("systemctl", "systemd"), "stop", timer], ok=(0, 5))
        shutil.rmtree(directory, ignore_errors=True)


def _directories(paths: Paths) -> list[Path]:
    return sorted(paths.run.glob(DIRECTORY.format(token="*")))


def pending(paths: Paths) -> list[Path]:
    """The folders of changes that wait for their confirmation: one at most."""
    return [directory for directory in _directories(paths) if (directory / _PENDING).exists()]


def _overdue(directory: Path) -> bool:
    """Whether the timer should have gone off long ago: it was killed, or its run before it could start one."""
    text = store.read_text(directory / _PENDING)
    try:
        return text is not None and time.monotonic() > float(text) + GRACE_S
    except ValueError:
        return True


def put_back(paths: Paths, commands: Sequence[Command]) -> str:
    """Undo at once what a run could not carry through, and say how that went. To be called with the lock held."""
    said = "the host was put back to what it was"
    try:
        kernel.carry(commands, past_failures=True)
    except HostError as error:
        said += f" / {error}"
    disarm(paths)
    return said


@contextlib.contextmanager
def settled(paths: Paths) -> Iterator[None]:
    """The lock, with no change of an earlier run waiting for its confirmation: what is live is then meant to be so."""
    give_up = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        with store.lock(paths):
            waiting = pending(paths)
            if not waiting:
                store.remove_interrupted(paths)
                yield
                return
        for directory in filter(_overdue, waiting):
            # It takes the lock itself.
            kernel.run(["/bin/sh", str(directory / _SCRIPT)])
        if time.monotonic() > give_up:
            raise HostError(
                f"{paths.run}: a change of another run has been waiting to be confirmed for "
                f"{SETTLE_TIMEOUT_S:g} s; nothing was changed"
            )
        time.sleep(0.1)
