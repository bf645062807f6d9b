# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the programs of this host, and waits for them. Programs that run beside this process are in `children.py`.

Programs get argument lists, and rulesets through standard input. A shell runs constant lines and paths of ours. Lines
that are kept for the next boot (`plan/boot.py`) also hold addresses and names of interfaces. These were checked
character by character before (`model/values.py`).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ..errors import CommandsError, HostError
from .observation import observed

#: A command line for the shell, and the text that it reads. Nothing that a user typed stands in the line.
Command = tuple[str, str]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: A program that hangs. Ten thousand services take a few seconds; a million slots up to a hundred on a busy machine.
TIMEOUT_S = 600.0
_DENIED = ("Operation not permitted", "you must be root")


@observed
def find(program: str) -> str | None:
    return shutil.which(program, path=PATH)


@observed
def has_user(name: str) -> bool:
    """Whether this host has a user of this name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def require(program: str, package: str) -> str:
    path = find(program)
    if path is None:
        raise HostError(f"{program}: not found on this host (install the package {package})")
    return path


def run(argv: Sequence[str], text: str | None = None, ok: Sequence[int] = (0,)) -> str:
    """Run a program and return what it printed. Raises `HostError` with what it said where its exit status is not in
    `ok`."""
    program = os.path.basename(argv[0])
    status, printed, complained = attempt(argv, text or "")
    if status not in ok:
        raise HostError(error_text(program, status, complained or printed))
    return printed


def run_commands(commands: Sequence[Command], past_failures: bool = False) -> None:
    """Run commands in turn, up to the first that fails (or all of them), in a process that does not depend on this one.

    If this process is killed between two commands, even with its whole process group, the change is still completed. No
    other run begins before that, since the new process holds the lock of this one (`store.lock`). Raises
    `CommandsError`.
    """
    if not commands:
        return
    with contextlib.ExitStack() as stack:
        # A line on standard output is a command that is done; what they print themselves goes to standard error.
        lines = ["failed=0"]
        for line, text in commands:
            file = stack.enter_context(_memory_file(text))
            os.set_inheritable(file.fileno(), True)
            otherwise = "failed=1" if past_failures else "exit"
            lines.append(f"if {{ {line} < /proc/self/fd/{file.fileno()}; }} >&2; then echo; else {otherwise}; fi")
        lines.append("exit $failed")
        status, done, complained = _execute("sh", ["/bin/sh", "-c", "\n".join(lines)], "", independent=True)
    if status:
        # It may also have been killed behind the last one.
        failed = 0 if past_failures else min(len(done), len(commands) - 1)
        raise CommandsError(error_text(os.path.basename(commands[failed][0].split()[0]), status, complained), failed)


def attempt(argv: Sequence[str], text: str) -> tuple[int, str, str]:
    """The exit status of a program, and what it left on its standard output and standard error."""
    return _execute(os.path.basename(argv[0]), argv, text, independent=False)


def _execute(program: str, argv: Sequence[str], text: str, independent: bool) -> tuple[int, str, str]:
    """The exit status of a program, and what it left on its standard output and standard error.

    An independent process leads its own session, and inherits the inheritable descriptors of this process: by default
    none is (PEP 446).
    """
    try:
        with _memory_file(text) as stdin, _memory_file() as stdout, _memory_file() as stderr:
            process = subprocess.Popen(
                list(argv),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                close_fds=not independent,
                start_new_session=independent,
                env={"PATH": PATH, "LC_ALL": "C"},
            )
            status = _wait(process, TIMEOUT_S, group=independent)
            if status is None:
                raise HostError(f"{program}: did not end within {TIMEOUT_S:.0f} s")
            return status, _content(stdout), _content(stderr)
    except OSError as error:
        raise HostError(f"{program}: {error.strerror}") from error


def _wait(process: subprocess.Popen[bytes], seconds: float, group: bool) -> int | None:
    """The exit status; None where the process (or the whole group that it leads) had to be killed.

    `Popen.wait` with a timeout polls, and so notices the end of a program up to 50 ms late.
    """
    late = threading.Event()

    def give_up() -> None:
        late.set()
        if group:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()

    timer = threading.Timer(seconds, give_up)
    # An interrupt may come at any line. Python does not wait for a timer of this kind as it ends.
    timer.daemon = True
    try:
        timer.start()
        status = process.wait()
    finally:
        timer.cancel()
    return None if late.is_set() else status


def error_text(program: str, status: int, said: str) -> str:
    text = " / ".join([line for line in said.splitlines() if line.strip()][:6]) or f"ended with status {status}"
    denied = any(words in text for words in _DENIED)
    return f"{program}: {text}" + (" (this needs root and the capability CAP_NET_ADMIN)" if denied else "")


@contextlib.contextmanager
def _memory_file(text: str = "") -> Iterator[BinaryIO]:
    """A file without a name. Pipes are filled and read in pieces of 512 bytes or a line, which takes seconds for 10,000
    services."""
    with os.fdopen(os.memfd_create("natlb"), "w+b") as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


@observed
def identity(path: str) -> str:
    status = os.stat(path)
    return f"{path} {status.st_size} {status.st_mtime_ns} {os.uname().release}"


def version(path: str) -> str:
    """The version that a program prints. It is the same until its file changes."""
    identity(path)
    return run([path, "--version"])
