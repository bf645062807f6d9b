# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commit and confirm: a change that nobody confirms undoes itself.

Before the change, a script is started on the host. It waits, and then restores the former rules. The controller
confirms over a new connection. Only then are the files for the next boot written. So whatever happens in between (a
lockout, a killed run, a reboot), the host ends with the former rules or with confirmed ones.

The script is already running before anything is changed, and has said so. A timer that starts it later could only fail
later (/run is mounted noexec on most hosts), when the operator may be locked out.

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import HostError
from ..host import cleanup, processes, staging, store
from ..host.processes import Command
from ..host.staging import Staging
from ..host.store import Paths

UNIT = "natlb-rollback"
#: The longest time, in seconds, that a change may wait for its confirmation.
LONGEST_S = 300
#: And for how long more, for whoever verifies a change before it is confirmed, from when the controller has come back
#: over a new connection.
VERIFIED_WITHIN_S = 120
SETTLE_TIMEOUT_S = LONGEST_S + VERIFIED_WITHIN_S + 30.0
#: How long the script may be late before the next run does its work.
GRACE_S = 3.0
#: How long the script may take to begin, on a host that is busy.
START_TIMEOUT_S = 20.0
#: How the token of a change begins that takes everything away: nothing may be left on the host to tell that it was
#: confirmed.
_REMOVAL = "gone"
#: One per change, named by its token: a script that comes too late finds nothing, never the files of a later change.
DIRECTORY = "rollback.{token}"
_PENDING, _CONFIRMED, _STAGED, _SCRIPT, _RUNNING = "pending", "confirmed", "staged.json", "undo", "running"
#: What `pending` is called once the script does its work.
_UNDOING = "undoing"
#: How many seconds more the script is to wait.
_MORE = "more"
#: The part of the script that puts rules back. It is read when it is due, so it may be renewed until then.
_RULES = "rules"

#: The lock keeps a run that begins at this very moment from planning with rules that are about to go. The clock of
#: `sleep` is the monotonic one: setting the time neither hastens nor delays it.
_HEAD = """# Written by natlb.netfilter: puts the rules of before an unconfirmed change back, after so many seconds.
# Run it as `sh undo SECONDS`: what is below /run cannot be executed on most hosts.
export PATH={path}
umask 077
cd {directory} || exit 0
[ "$1" -eq 0 ] || {{ : > {running} && sleep "$1"; while mv {more} slept 2>/dev/null; do sleep "$(cat slept)"; done; }}
exec 9>>{lock}
flock --timeout 30 9 || true
mv {pending} {undoing} 2>/dev/null || exit 0
exec 8>&2 2>complaints
"""
#: What could not be put back is told to whoever asks next, and before that to the journal, by a unit that has failed.
_TAIL = """
date --utc +'%Y-%m-%d %H:%M:%S UTC' > {undone}
status=0
[ -s complaints ] && {{ status=1; echo 'but not completely:'; cat complaints; }} >> {undone}
[ $status -eq 0 ] || cat {undone} >&8
cd / && rm -rf {directory}
exit $status
"""


class WayBack(NamedTuple):
    """What undoes a change, in order: `rules` of the engines, and what else it has changed."""

    rules: Sequence[Command]
    rest: Sequence[Command] = ()


def arm(paths: Paths, after_s: int, way_back: WayBack, staged: Staging) -> str:
    """Leave the script on the host, waiting. Returns the token that `confirm` takes.

    `staged` is what the next boot is to find once it is confirmed.
    """
    disarm(paths)
    store.remove(paths.run / store.CONFIRMED)
    token = (_REMOVAL if staged.removes_all else "") + os.urandom(8).hex()
    directory = _directory(paths, token)
    store.make_directory(directory)
    names = {"directory": directory, "lock": paths.run / "lock", "pending": _PENDING, "running": _RUNNING}
    names.update(more=_MORE, undoing=_UNDOING, undone=paths.run / store.UNDONE, path=processes.PATH)
    quoted = {key: shlex.quote(str(value)) for key, value in names.items()}
    _write_rules(directory, way_back.rules)
    lines = [_HEAD.format(**quoted), f". ./{_RULES}\n"]
    for number, (command, text) in enumerate(way_back.rest):
        store.write_text(directory / f"undo.{number}", text)
        lines.append(f"{command} < undo.{number}\n")
    store.write_text(directory / _SCRIPT, "".join(lines) + _TAIL.format(**quoted))
    restage(directory, staged)
    store.write_text(directory / _PENDING, str(time.monotonic() + after_s))
    store.remove(paths.run / store.UNDONE)
    try:
        _start(directory, after_s, f"{UNIT}-{token}")
    except HostError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return token


def renew(directory: Path, rules: Sequence[Command], staged: Staging) -> None:
    """Let a change that waits be undone by these rules, and leave this for the next boot, from now on.

    To be called with the lock held: the script takes it as well.
    """
    _write_rules(directory, rules)
    restage(directory, staged)


def restage(directory: Path, staged: Staging) -> None:
    """Leave this for the next boot once the change is confirmed."""
    store.write_text(directory / _STAGED, json.dumps(staged.dump()))


def _write_rules(directory: Path, rules: Sequence[Command]) -> None:
    former = list(directory.glob(f"{_RULES}.*"))
    lines = []
    for command, text in rules:
        name = f"{_RULES}.{os.urandom(6).hex()}"
        try:
            store.write_text(directory / name, text)
        except HostError as error:
            # Whoever tries again and again says it once, and so it has to be the same.
            raise HostError(str(error).replace(name, _RULES)) from error
        lines.append(f"{command} < {name}\n")
    store.write_text(directory / _RULES, "".join(lines))
    for path in former:
        store.remove(path)


def staged(directory: Path) -> Staging:
    """What a change that waits has staged for the next boot."""
    return staging.load(store.read_json(directory / _STAGED))


def _directory(paths: Paths, token: str) -> Path:
    return paths.run / DIRECTORY.format(token=token)


def _start(directory: Path, after_s: int, unit: str) -> None:
    """Start the script, and return once it waits. Raises `HostError` where it cannot be brought to that.

    With systemd it is a unit of its own, which outlives this process, its session and its container's exec. One that
    fails stays in the list of failed units.
    """
    argv = ["/bin/sh", str(directory / _SCRIPT), str(after_s)]
    if os.path.isdir("/run/systemd/system") and processes.find("systemd-run"):
        processes.run([processes.require("systemd-run", "systemd"), "--quiet", f"--unit={unit}", *argv])
        remedy = f"`systemctl status {unit}` says why"
    else:
        subprocess.Popen(
            argv,
            start_new_session=True,
            close_fds=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        remedy = f"to see why, run `{shlex.join(argv)}`"
    give_up = time.monotonic() + START_TIMEOUT_S
    while not (directory / _RUNNING).exists():
        if time.monotonic() > give_up:
            raise HostError(
                f"the script that restores the former rules cannot be started, so nothing was changed ({remedy})"
            )
        time.sleep(0.01)


def confirm(paths: Paths, token: str) -> None:
    """Keep the change: stop the script, and put in place what the next boot is to find. Once more does no harm: the
    answer to the first time may have been lost on its way.

    Raises `HostError` where the host has gone back already, where another run has made a change of its own, or where
    what was staged cannot be put in place: the script then does its work.
    """
    directory = _of_token(paths, token)
    with store.lock(paths):
        if not _claimed(directory):
            if _is_confirmed(paths, token):
                return
            raise HostError(_too_late(paths))
        try:
            with staging.prepared(paths, staged(directory)) as put_in_place:
                put_in_place()
        except Exception:
            os.rename(directory / _CONFIRMED, directory / _PENDING)
            raise
        store.write_text(paths.run / store.CONFIRMED, token)
        disarm(paths)
        cleanup.remove_if_unused(paths)


def undo(paths: Paths, token: str) -> None:
    """Let the host go back now, instead of when its time is over.

    Raises `HostError` where the change does not wait any more, or where not everything could be put back.
    """
    directory = _waiting(paths, token)
    # It takes the lock itself, and the one that sleeps finds nothing to do then.
    processes.run(["/bin/sh", str(directory / _SCRIPT), "0"], ok=(0, 1))
    if (directory / _PENDING).exists():
        raise HostError("the host could not go back now; it goes on trying by itself when its time is over")
    text = store.read_text(paths.run / store.UNDONE)
    if text is not None and len(text.splitlines()) > 1:
        raise HostError(f"the host went back to its former rules, {' '.join(text.split())}")


def hold(paths: Paths, token: str) -> None:
    """Let the change wait for `VERIFIED_WITHIN_S` seconds more: the controller can come in, and now verifies it.

    Raises `HostError` unless it waits for its confirmation.
    """
    with store.lock(paths):
        directory = _waiting(paths, token)
        if not (directory / _MORE).exists():
            due = float(store.read_text(directory / _PENDING) or 0)
            store.write_text(directory / _PENDING, str(due + VERIFIED_WITHIN_S))
            store.write_text(directory / _MORE, str(VERIFIED_WITHIN_S))


def _waiting(paths: Paths, token: str) -> Path:
    directory = _of_token(paths, token)
    if not (directory / _PENDING).exists():
        raise HostError(_too_late(paths))
    return directory


def _of_token(paths: Paths, token: str) -> Path:
    if not token.isalnum():
        raise HostError(f"{token!r} is not a token")
    return _directory(paths, token)


def _claimed(directory: Path) -> bool:
    """Whether the script has lost the race. A confirmation that was killed behind this is finished by the next one."""
    try:
        os.rename(directory / _PENDING, directory / _CONFIRMED)
    except FileNotFoundError:
        return (directory / _CONFIRMED).exists()
    return True


def _is_confirmed(paths: Paths, token: str) -> bool:
    """Whether this change was confirmed before, and no other one has come since."""
    if token.startswith(_REMOVAL):
        # One that was undone leaves the kept request, and when it was undone.
        return store.state_path(paths) is None and store.read_text(paths.run / store.UNDONE) is None
    return store.read_text(paths.run / store.CONFIRMED) == token


def _too_late(paths: Paths) -> str:
    undone = store.read_text(paths.run / store.UNDONE)
    if undone is None:
        return "this change is not pending: another run has replaced it, or the host was rebooted"
    when = " ".join(undone.split())
    return f"nobody confirmed the change in time, so the host went back to its former rules ({when})"


def disarm(paths: Paths) -> None:
    """Forget a change that waits for its confirmation, without undoing it."""
    for directory in _directories(paths):
        store.remove(directory / _PENDING)
        if os.path.isdir("/run/systemd/system") and processes.find("systemctl"):
            unit = f"{UNIT}-{directory.name.partition('.')[2]}.service"
            # 5: there is no such unit any more.
            processes.run([processes.require("systemctl", "systemd"), "stop", unit], ok=(0, 5))
        shutil.rmtree(directory, ignore_errors=True)


def _directories(paths: Paths) -> list[Path]:
    return sorted(paths.run.glob(DIRECTORY.format(token="*")))


def pending(paths: Paths) -> list[Path]:
    """The folders of changes that wait for their confirmation: one at most."""
    return [directory for directory in _directories(paths) if (directory / _PENDING).exists()]


def _remove_unfinished(paths: Paths) -> None:
    """Remove the folders of runs that were killed while they wrote them: nothing waits there, and nothing is undone.

    To be called with the lock held: whoever writes one, or puts rules back, has it.
    """
    for directory in _directories(paths):
        if not any((directory / name).exists() for name in (_PENDING, _CONFIRMED, _UNDOING)):
            shutil.rmtree(directory, ignore_errors=True)


def _overdue(directory: Path) -> bool:
    """Whether the script should have done its work long ago: it was killed, or its run before it could start it."""
    text = store.read_text(directory / _PENDING)
    try:
        return text is not None and time.monotonic() > float(text) + GRACE_S
    except ValueError:
        return True


def waiting(paths: Paths) -> Path | None:
    """The folder of the change that waits for its confirmation."""
    return next(iter(pending(paths)), None)


@contextlib.contextmanager
def lock_with_none_overdue(paths: Paths) -> Iterator[Path | None]:
    """The lock, and the folder of the change that waits for its confirmation, if there is one.

    A change whose script should have undone it long ago is undone first.
    """
    while True:
        with store.lock(paths):
            directory = waiting(paths)
            if directory is None or not _overdue(directory):
                staging.remove_unfinished(paths)
                _remove_unfinished(paths)
                yield directory
                return
        # It takes the lock itself. 1: it could not put everything back, which is then for this run to do.
        processes.run(["/bin/sh", str(directory / _SCRIPT), "0"], ok=(0, 1))


@contextlib.contextmanager
def lock_with_nothing_pending(paths: Paths) -> Iterator[None]:
    """The lock, with no change of an earlier run waiting for its confirmation: what is live is then meant to be so."""
    give_up = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        with lock_with_none_overdue(paths) as directory:
            if directory is None:
                yield
                return
        if time.monotonic() > give_up:
            raise HostError(
                f"{paths.run}: a change of another run waits to be confirmed, for more than {SETTLE_TIMEOUT_S:g} s; "
                f"nothing was changed"
            )
        time.sleep(0.1)
