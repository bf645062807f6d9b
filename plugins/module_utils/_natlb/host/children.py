# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program of somebody else that runs while this process goes on, with few rights, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Mapping, Sequence

from ..errors import HostError
from .processes import PATH

_PIPE_CHUNK = 65536


class Child:
    """A program in a session and process group of its own, without standard input.

    Raises `HostError` where it cannot be run. Whatever it prints goes to one pipe, whose end to read is `output`.
    """

    def __init__(self, argv: Sequence[str], user: str, env: Mapping[str, str]) -> None:
        self.output, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            # The program's end waits where the pipe is full, as programs expect.
            os.set_blocking(write, True)
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                cwd="/",
                env={"PATH": PATH, "LC_ALL": "C", **env},
                start_new_session=True,
                umask=0o077,
                **_identity(user),  # type: ignore[call-overload]
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.close()
            words = error.strerror if isinstance(error, OSError) else str(error)
            raise HostError(f"{argv[0]}: {words}") from error
        except HostError as error:
            self.close()
            raise HostError(f"{argv[0]}: {error}") from error
        finally:
            os.close(write)
        self.watch = _watch(self._process.pid)

    def exited(self) -> bool:
        """Whether the program itself has ended; what it began may go on."""
        if self._process.returncode is not None:
            return True
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def read(self) -> bytes:
        """What it printed since the last call. Raises `BlockingIOError`."""
        return os.read(self.output, _PIPE_CHUNK)

    def kill(self) -> None:
        """End it and everything that is left of its group.

        This is right as long as it was not waited for: until then nobody else can have its number.
        """
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def reap(self) -> int | None:
        """Its exit status, negative where a signal ended it; None where it is not gone yet."""
        status: int | None = self._process.poll()
        return status

    def close(self) -> None:
        """Forget what tells of it."""
        for descriptor in (self.output, getattr(self, "watch", None)):
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)
        self.output, self.watch = -1, None


def _watch(pid: int) -> int | None:
    """A descriptor that can be read once the process has ended; None where the kernel (before 5.3) has none."""
    try:
        return int(os.pidfd_open(pid))
    except (AttributeError, OSError):
        return None


def _identity(user: str) -> dict[str, object]:
    """What `Popen` is told so that the program runs as this user, with its own group alone."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise HostError(f"there is no user {user}") from error
    if entry.pw_uid == os.geteuid():
        return {}
    if os.geteuid():
        raise HostError(f"only root can run a program as {user}")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
