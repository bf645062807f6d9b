# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One check under way, as its owner (`checks.py`) sees it, and what all of them that use a socket have in common."""

from __future__ import annotations

import errno
import os
import selectors
import socket
from typing import Callable, Protocol

from .question import Question
from .state import Outcome

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
#: Errors of the balancer itself: no descriptor, no memory, no port left, a source address that it does not have (any
#: more), a rule of its own that forbids. They say nothing of the backend.
_OWN = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOBUFS,
    errno.EADDRNOTAVAIL,
    errno.EADDRINUSE,
    errno.EACCES,
    errno.EPERM,
}
Done = Callable[[Outcome], None]
_CONNECT = "connect to"


class Attempt(Protocol):
    """One check under way."""

    #: How often `look` is to be called in between; 0 where the selector tells of everything.
    look_s: float

    @property
    def is_connecting(self) -> bool:
        """Whether it still waits for the kernel of the backend, which answers within milliseconds."""

    def start(self) -> None:
        """Begin; `done` is called once, at the latest by `late`, and maybe already here."""

    def poll(self) -> None:
        """See whether it has ended."""

    def late(self, within_s: float) -> None:
        """It has had this time."""

    def close(self) -> None:
        """Give up without a result."""


class SocketAttempt:
    """A check by one socket. What is behind `_connected` and `_ready` is of its kind."""

    __slots__ = ("_doing", "_done", "_mask", "_question", "_selector", "_socket")
    look_s = 0.0
    _kind = socket.SOCK_STREAM

    def __init__(self, question: Question, selector: selectors.BaseSelector, done: Done) -> None:
        self._question, self._selector, self._done = question, selector, done
        self._socket: socket.socket | None = None
        self._mask = 0
        #: What it is about to do, for the reason of a failure.
        self._doing = _CONNECT

    def start(self) -> None:
        health, address, port = self._question
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            # Without an address family of Python's own: it looks names up for `connect`, numbers are found at once.
            self._socket = socket.socket(family, self._kind | socket.SOCK_NONBLOCK)
            self._prepare(self._socket)
            if health.source is not None and (":" in health.source) == (":" in address):
                # The port is chosen at connect, by the pair: so it does not run out for one source.
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                self._socket.bind((health.source, 0))
            status = self._socket.connect_ex((address, port or 0))
        except OSError as error:
            self._fail(error)
            return
        if status in (0, errno.EINPROGRESS):
            self._wait(WRITE)
        else:
            self._fail(OSError(status, os.strerror(status)))

    def poll(self) -> None:
        """Nothing: the selector tells of everything."""

    @property
    def is_connecting(self) -> bool:
        """As `Attempt`, like the others."""
        return self._doing == _CONNECT

    def late(self, within_s: float) -> None:
        self._finish(Outcome("down", f"{self._doing} {self._question.target}: no answer within {within_s:g} s"))

    def close(self) -> None:
        if self._socket is not None:
            if self._mask:
                self._selector.unregister(self._socket)
                self._mask = 0
            self._socket.close()
            self._socket = None

    def _prepare(self, peer: socket.socket) -> None:
        """Set options before it connects."""

    def _wait(self, mask: int) -> None:
        if mask != self._mask and self._socket is not None:
            if self._mask:
                self._selector.modify(self._socket, mask, self.ready)
            else:
                self._selector.register(self._socket, mask, self.ready)
            self._mask = mask

    def ready(self, mask: int) -> None:
        """The selector has something to tell, maybe of before it was closed."""
        if self._socket is None:
            return
        try:
            self._ready(mask)
        except OSError as error:
            self._fail(error)

    def _ready(self, mask: int) -> None:
        raise NotImplementedError

    def _fail(self, error: OSError) -> None:
        state = "unasked" if error.errno in _OWN else "down"
        words = error.strerror or str(error)
        self._finish(Outcome(state, f"{self._doing} {self._question.target}: {words}"))  # type: ignore[arg-type]

    def _finish(self, outcome: Outcome) -> None:
        self.close()
        self._done(outcome)


#: include/uapi/linux/in.h; Python 3.9 does not name it.
_IP_BIND_ADDRESS_NO_PORT = 24
