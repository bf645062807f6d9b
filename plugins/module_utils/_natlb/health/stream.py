# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks over TCP: a connection alone, or one on which something is asked and an answer judged."""

from __future__ import annotations

import os
import selectors
import socket
import struct
from typing import NamedTuple, Protocol

from .attempt import READ, WRITE, Done, SocketAttempt
from .question import Question
from .state import Outcome

_AT_ONCE = struct.pack("ii", 1, 0)
#: A record of TLS is no larger, so nothing of one is left where the selector cannot see it.
_CHUNK = 16384


class Judge(Protocol):
    """Reads an answer as it comes in."""

    def feed(self, data: bytes) -> Outcome | None:
        """More of it; none at its end. What follows, as soon as that is certain; at its end it is."""


class Talk(NamedTuple):
    """What is said on a connection, and by whom the answer is judged. `doing` names it in reasons."""

    request: bytes
    judge: Judge
    doing: str


class Connection(SocketAttempt):
    """A backend that accepts a connection is up."""

    __slots__ = ()

    def _prepare(self, peer: socket.socket) -> None:
        # Closed with a RST, as HAProxy does: 500 checks a second would otherwise leave 30,000 sockets in TIME_WAIT.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        # Without the last packet of the handshake, whose place the RST takes: so the connection never reaches the
        # program behind the port, which would log it, and is refused all the same where nobody listens.
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)

    def _ready(self, mask: int) -> None:
        del mask
        _raise_error(self._socket)
        self._finish(Outcome("up", "it accepts connections"))


class Conversation(SocketAttempt):
    """A backend is what the judge of its answer says."""

    __slots__ = ("_connected", "_left", "_talk")

    def __init__(self, question: Question, selector: selectors.BaseSelector, done: Done, talk: Talk) -> None:
        super().__init__(question, selector, done)
        self._talk, self._left = talk, talk.request
        self._connected = False

    def _prepare(self, peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The answer is complete or of no use when it is closed. The side that closes first has the TIME_WAIT.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)

    def _ready(self, mask: int) -> None:
        del mask
        try:
            self._go_on()
        except BlockingIOError:
            self._wait(WRITE if self._left else READ)

    def _go_on(self) -> None:
        if not self._connected:
            _raise_error(self._socket)
            self._connected = True
            self._begin()
        self._ask()

    def _begin(self) -> None:
        """It is connected, and nothing is said yet."""

    def _ask(self) -> None:
        self._doing = self._talk.doing
        peer = self._socket
        while self._left and peer is not None:
            self._left = self._left[peer.send(self._left) :]
        self._wait(READ)
        self._read()

    def _read(self) -> None:
        peer = self._socket
        if peer is None:
            return
        outcome = self._talk.judge.feed(peer.recv(_CHUNK))
        if outcome is not None:
            self._finish(outcome._replace(reason=f"{self._doing} {self._question.target}: {outcome.reason}"))


def _raise_error(peer: socket.socket | None) -> None:
    status = peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if peer is not None else 0
    if status:
        raise OSError(status, os.strerror(status))
