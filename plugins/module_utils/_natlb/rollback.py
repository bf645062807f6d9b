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

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import kernel, store
from .errors import HostError
from .store import Paths

UNIT = "natlb-rollback"
DIRECTORY = "rollback"
UNDONE = "undone"
_PENDING, _CONFIRMED, _STAGED, _SCRIPT = "pending", "confirmed", "staged.json", "undo"

#: The lock keeps a run that begins at this very moment from planning with rules that are about to go.
_HEAD = """#!/bin/sh
# Written by natlb.netfilter: puts the rules of before an unconfirmed change back.
cd {directory} || exit 0
exec 9>>{lock}
flock --timeout 30 9 || true
mv {pending} undoing 2>/dev/null || exit 0
status=0
"""
_TAIL = """
date --utc +'%Y-%m-%d %H:%M:%S UTC' > {undone}
[ "$status" = 0 ] || echo 'not all of it: see the journal' >> {undone}
cd / && rm -rf {directory}
exit "$status"
"""


def arm(paths: Paths, after_s: int, commands: Mapping[str, str], staged: Mapping[Path, tuple[str, int] | None]) -> str:
    """Leave the script and its timer on the host. Returns the token that `confirm` takes.

    `commands` are the command lines that undo the change, in order, each with the text that it reads; `staged` are the
    files to write (text and mode) or to remove (None) at the confirmation.
    """
    directory = paths.run / DIRECTORY
    disarm(paths)
    store.make_directory(directory)
    names = {"directory": directory, "lock": paths.run / "lock", "pending": _PENDING, "undone": paths.run / UNDONE}
    quoted = {key: shlex.quote(str(value)) for key, value in names.items()}
    lines = [_HEAD.format(**quoted)]
    for number, (command, text) in enumerate(commands.items()):
        store.write_text(directory / f"undo.{number}", text)
        lines.append(f"{command} < undo.{number} || status=1\n")
    store.write_text(directory / _SCRIPT, "".join(lines) + _TAIL.format(**quoted), 0o700)
    kept = {str(path): content for path, content in staged.items()}
    store.write_text(directory / _STAGED, json.dumps(kept))
    token = os.urandom(8).hex()
    store.write_text(directory / _PENDING, token)
    store.remove(paths.run / UNDONE)
    _start_timer(directory / _SCRIPT, after_s)
    return token


def _start_timer(script: Path, after_s: int) -> None:
    """With systemd a timer of its own, which outlives this process, its session and its container's exec."""
    if os.path.isdir("/run/systemd/system") and kernel.find("systemd-run"):
        argv = [kernel.require("systemd-run", "systemd"), "--quiet", "--collect", f"--unit={UNIT}"]
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

    Raises `HostError` where the host has gone back already, or where another run has made a change of its own.
    """
    directory = paths.run / DIRECTORY
    with store.lock(paths):
        if store.read_text(directory / _PENDING) != token:
            raise HostError(_too_late(paths))
        try:
            os.rename(directory / _PENDING, directory / _CONFIRMED)
        except FileNotFoundError:
            raise HostError(_too_late(paths)) from None
        for name, content in store.read_json(directory / _STAGED).items():
            if content is None:
                store.remove(Path(name))
            else:
                store.write_text(Path(name), content[0], content[1])
        disarm(paths)


def _too_late(paths: Paths) -> str:
    undone = store.read_text(paths.run / UNDONE)
    if undone is None:
        return "this change is not waiting to be confirmed: another run has replaced it, or the host was rebooted"
    when = " ".join(undone.split())
    return f"nobody confirmed the change in time, so the host went back to its former rules ({when})"


def disarm(paths: Paths) -> None:
    """Forget a change that waits for its confirmation, without undoing it."""
    directory = paths.run / DIRECTORY
    if not directory.exists():
        return
    store.remove(directory / _PENDING)
    if os.path.isdir("/run/systemd/system") and kernel.find("systemctl"):
        kernel.run([kernel.require("systemctl", "systemd"), "stop", f"{UNIT}.timer"], ok=(0, 1, 5))
    shutil.rmtree(directory, ignore_errors=True)


def pending(paths: Paths) -> bool:
    """Whether a change waits for its confirmation."""
    return (paths.run / DIRECTORY / _PENDING).exists()


def wait_until_settled(paths: Paths, timeout_s: float) -> bool:
    """Wait while a change of another run waits for its confirmation; False where it still does."""
    give_up = time.monotonic() + timeout_s
    while pending(paths):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


Staged = dict[Path, Any]
