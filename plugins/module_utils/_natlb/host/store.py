# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that natlb keeps on the host: /etc/natlb for the next boot, /run/natlb until then.

Every write of a file is atomic (a new file next to the old one, synced, then renamed over it). So a crash or a full
disk leaves the old content. Only root may read or write these files. `boot_set.py` and `staging.py` handle files that
belong together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BusyError, HostError
from .observation import observed

STATE = "state.json"
NORMAL = "normal.json"
#: What the last run made of its declaration (`plan/last_declaration.py`).
DECLARED = "declared.json"
#: What the last run has seen, and would come to again (`plan/unchanged.py`).
SEEN = "seen.json"
BEFORE = "before.json"
#: What stands beside the declaration, and what both made of it in the last run (`plan/overlay.py`).
OVERRIDES, HEALTH, EFFECTIVE = "overrides.json", "health.json", "effective.json"
#: What health checks have found over time (`plan/health_history.py`).
HISTORY = "history.jsonl"
#: How new connections are levelled for now (`model/least_connections.py`).
MULTIPLES = "multiples.json"
#: What was counted for each backend, also by slots that are gone (`plan/totals.py`); the last run (`plan/last_run.py`).
TOTALS, TAKEN, LAST_RUN = "totals.json", "taken.jsonl", "last-run.json"
#: Ends the name of a file that could not be read, or not as a whole, and was written anew.
DAMAGED_SUFFIX = ".damaged"
BOOT = "boot"
#: What the last confirmed change was told from others by, and when one was undone (`plan/rollback.py`).
CONFIRMED, UNDONE = "confirmed", "undone"
#: Where the agent answers.
AGENT_SOCKET = "agent.sock"
#: What `natlb ready` need not find out again (`status/serving.py`), and that it has to say no (`left.py`).
READINESS, LEFT = "readiness.json", "left.json"
#: There where systemd has not read yet what was written for it.
RELOAD = "daemon-reload"
#: How the names begin of what is being written.
TEMPORARY = ".natlb-"
#: A run takes seconds; one that holds the lock longer hangs, and waiting for it would hang every later one too.
LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Paths:
    """Where things are kept: `etc` survives a reboot, `run` does not.

    Units and settings for the next boot are in folders of the system, such as etc/systemd/system, below `system`. None
    leaves those folders alone.
    """

    etc: Path = Path("/etc/natlb")
    run: Path = Path("/run/natlb")
    system: Path | None = None
    #: Texts that stand for those of files, None for no file: what a change that waits for its confirmation will leave.
    staged: Mapping[Path, str | None] = field(default_factory=dict, hash=False)


DEFAULT_PATHS = Paths(system=Path("/"))

#: Text and mode of a file.
Content = tuple[str, int]


@observed
def read_text(path: Path | str) -> str | None:
    """The text of a file, or None where there is none.

    Every byte counts: ends of lines are left as they are, and what is no UTF-8 is shown by its number.
    """
    try:
        return Path(path).read_bytes().decode("utf-8", "backslashreplace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error


@observed
def read_content(path: Path | str) -> Content | None:
    """Text and mode of a file, or None where there is none."""
    text = read_text(path)
    return None if text is None else (text, stat.S_IMODE(Path(path).stat().st_mode))


def read_json(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file; empty where there is none, or none that can be read: a run then writes it anew."""
    try:
        return mapping(read_text(path))
    except HostError:
        return {}


def read_cache(path: Path) -> dict[str, Any]:
    """The same, of a file that only spares work: no plan depends on what is in it."""
    return mapping(cached_text(path))


def cached_text(path: Path) -> str | None:
    """The text of such a file; None where it cannot be read."""
    try:
        return path.read_text("utf-8", "backslashreplace")
    except OSError:
        return None


def mapping(text: str | None) -> dict[str, Any]:
    try:
        parsed = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def kept_text(paths: Paths, path: Path) -> str | None:
    """The text of a file that a run has kept, or that a change which waits will keep; None where there is none."""
    return paths.staged[path] if path in paths.staged else read_text(path)


def read_state(paths: Paths, known: tuple[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """What the last successful run declared. `known` is the text of such a file that has been read before, and what is
    in it."""
    for path in (paths.etc / STATE, paths.run / STATE):
        text = state_text(paths, path)
        found = known[1] if known is not None and text == known[0] else mapping(text)
        if found:
            return found
    return {}


def state_text(paths: Paths, path: Path) -> str | None:
    """The text of one of the files in which a run may have kept its request; None where it cannot be read, either."""
    try:
        return kept_text(paths, path)
    except HostError:
        return None


def state_path(paths: Paths) -> Path | None:
    """Where that is kept: in `run` with `persist: false`. None where nothing is declared."""
    places = (paths.etc / STATE, paths.run / STATE)
    return next((path for path in places if _is_kept(paths, path)), None)


def _is_kept(paths: Paths, path: Path) -> bool:
    return paths.staged[path] is not None if path in paths.staged else bool(exists(path))


@observed
def exists(path: Path | str) -> bool:
    """Whether there is such a file."""
    return os.path.exists(path)


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from what it was before; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(path.stat().st_mode) != 0o700:
            path.chmod(0o700)
    except OSError as error:
        raise HostError(f"{path}: cannot be made: {error.strerror}") from error


def write_text(path: Path, text: str, mode: int = 0o600) -> None:
    """Put a file in the place of another in one step."""
    make_directory(path.parent)
    temporary = new_file(path, text, mode)
    try:
        replace(temporary, path)
    except HostError:
        discard(temporary)
        raise
    sync_folder(path.parent)


def append_text(path: Path, text: str) -> None:
    """Add lines to the end of a file that need not be on the disk at once. Raises `HostError`.

    A crash or a full disk may have cut the last line. What is added begins a line of its own nevertheless.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            size = os.fstat(descriptor).st_size
            is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            file.write("\n" + text if is_cut else text)
    except OSError as error:
        raise HostError(f"{path}: cannot be written: {error.strerror}") from error


def new_file(path: Path, text: str, mode: int) -> str:
    """The name of a new file beside `path` that holds `text`, safely on the disk."""
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        _fill(descriptor, text, mode)
    except OSError as error:
        discard(temporary)
        raise unwritten(path, error) from error
    return temporary


def write_new(path: Path, text: str, mode: int) -> None:
    """Write a file that nobody reads yet, safely to the disk."""
    try:
        _fill(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), text, mode)
    except OSError as error:
        raise unwritten(path, error) from error


def _fill(descriptor: int, text: str, mode: int) -> None:
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def new_link(path: Path, target: str) -> str:
    """The name of a new link beside `path`."""
    temporary = f"{path.parent}/{TEMPORARY}{os.urandom(6).hex()}"
    try:
        os.symlink(target, temporary)
    except OSError as error:
        raise unwritten(path, error) from error
    return temporary


def replace(temporary: str, path: Path) -> None:
    """Put what was made beside a file in its place."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        raise unwritten(path, error) from error


def discard(temporary: str | None) -> None:
    """Remove what is not needed any more, if it is there."""
    if temporary is not None:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def sync_folder(directory: Path) -> None:
    """Names are on the disk only once their folder is (fsync(2))."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def unwritten(path: Path, error: OSError) -> HostError:
    return HostError(f"{path}: cannot be written: {error.strerror}; what was there is unchanged")


def remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostError(f"{path}: cannot be removed: {error.strerror}") from error


def remove_directory(path: Path) -> None:
    """Take a directory of ours away, unless somebody keeps files of their own in it."""
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
            raise HostError(f"{path}: cannot be removed: {error.strerror}") from error


_ending = threading.Event()


def end_waiting() -> None:
    """Let this process wait for the lock no longer, as it is to end: who holds the lock may wait for that."""
    _ending.set()


@contextlib.contextmanager
def lock(paths: Paths, wait_s: float | None = None) -> Iterator[None]:
    """Hold the one lock under which the kernel is changed. The kernel frees it where its holder dies. Raises
    `BusyError` where somebody else holds it for longer than `wait_s` (`LOCK_TIMEOUT_S` where nothing is given).

    The descriptor is inheritable, for `processes.run_commands`: a process that still changes the kernel holds the lock
    as well.
    """
    path = paths.run / "lock"
    wait_s = LOCK_TIMEOUT_S if wait_s is None else wait_s
    give_up = time.monotonic() + wait_s
    descriptor = -1
    while descriptor < 0:
        make_directory(paths.run)
        descriptor = _try_lock(path)
        if descriptor < 0:
            if _ending.is_set():
                raise BusyError(f"{path}: another run holds it, and this process is to end; nothing was changed")
            if time.monotonic() >= give_up:
                holder = (read_text(path) or "").strip() or "unknown"
                raise BusyError(
                    f"{path}: another run (process {holder}) holds it for {wait_s:g} s; nothing was changed"
                )
            time.sleep(0.05)
    try:
        _note_holder(descriptor)
        os.set_inheritable(descriptor, True)
        yield
    finally:
        os.close(descriptor)


def _note_holder(descriptor: int) -> None:
    """For whoever waits in vain. With a full disk, nobody is named."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _try_lock(path: Path) -> int:
    """The descriptor that holds the lock, or -1 where somebody else does.

    The run that takes everything away unlinks the file. Who waited for it then holds a file that nobody else will see,
    and has to begin again.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise HostError(f"{path}: cannot be opened: {error.strerror}") from error
    with contextlib.suppress(BlockingIOError, FileNotFoundError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    os.close(descriptor)
    return -1
