# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test's handle on one host of the lab."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from . import worker

CALL_TIMEOUT_S = 60.0
# linux/sockios.h, linux/if.h
SIOCGIFFLAGS, IFF_RUNNING = 0x8913, 0x40
PROGRAM_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 5.0


class Host:
    """A process in a network namespace of its own.

    `call(function, ...)` runs an importable function there, `begin` does not wait for it, `run` starts a program.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        ours, theirs = Pipe()
        self._connection = ours
        self._process = subprocess.Popen(
            [sys.executable, worker.__file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        theirs.close()
        self._tickets = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._sending = threading.Lock()
        threading.Thread(target=self._receive, daemon=True, name=f"replies of {name}").start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
        return self._send(pickle.dumps((function, args, kwargs)))

    def call(self, function: Callable[..., Any], *args: Any, within_s: float = CALL_TIMEOUT_S, **kwargs: Any) -> Any:
        return self.begin(function, *args, **kwargs).result(within_s)

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> str:
        """What the program printed; raises RuntimeError with its complaint where it fails and `check` is set."""
        return str(self.call(run_program, argv, stdin, check))

    def ip(self, lines: str) -> None:
        """Run lines of `ip -batch`."""
        self.run("ip", "-batch", "-", stdin=lines)

    def sysctl(self, values: Mapping[str, int | str]) -> None:
        """Set `{"ipv4/ip_forward": 1}` and the like, below /proc/sys/net."""
        self.call(write_sysctls, {key: str(value) for key, value in values.items()})

    def renew(self) -> None:
        """Start over in an empty namespace. Whatever still runs here keeps the old one alive, so stop it first."""
        self._send(worker.RENEW).result(CALL_TIMEOUT_S)
        self.ip("link set lo up")

    def close(self) -> None:
        with contextlib.suppress(OSError):  # It may have ended by itself.
            self._send(worker.END)
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(CLOSE_TIMEOUT_S)

    def _send(self, payload: bytes) -> Future[Any]:
        future: Future[Any] = Future()
        with self._sending:
            ticket = next(self._tickets)
            self._waiting[ticket] = future
            self._connection.send((ticket, payload))
        return future

    def _receive(self) -> None:
        try:
            while True:
                ticket, reply = self._connection.recv()
                _settle(self._waiting.pop(ticket), reply)
        except (EOFError, OSError):
            for future in self._waiting.values():
                future.set_exception(RuntimeError(f"{self.name} has gone"))


def _settle(future: Future[Any], reply: bytes) -> None:
    good, value = pickle.loads(reply)
    if good:
        future.set_result(value)
        return
    kind, text, attributes, where = value
    error = kind.__new__(kind)
    error.args = (text,)
    vars(error).update(attributes)
    error.__cause__ = RuntimeError(f"in the host's process:\n{where}")
    future.set_exception(error)


def run_program(argv: Sequence[str], stdin: str, check: bool) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_until_running(links: Sequence[str], within_s: float = 30.0) -> None:
    """Wait until the kernel has seen that both ends of these links are up.

    It does so in its own time (linkwatch), which is long where many namespaces come and go, and drops what is sent
    meanwhile. A datagram is not sent again.
    """
    deadline = time.monotonic() + within_s
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for link in links:
            while not _flags(sock, link) & IFF_RUNNING:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{link} is not running")
                time.sleep(0.002)


def _flags(sock: socket.socket, link: str) -> int:
    answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH14x", link.encode(), 0))
    return int(struct.unpack_from("H", answer, 16)[0])


def write_sysctls(values: dict[str, str]) -> None:
    """/proc/sys/net shows the namespace of the thread that asks."""
    for key, value in values.items():
        Path("/proc/sys/net", key).write_text(value)
