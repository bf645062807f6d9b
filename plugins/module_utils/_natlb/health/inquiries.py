# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to the agent from other processes of the host, and its answers.

A question is a line. It is answered with JSON, and `follow` with a line of JSON for each event until the client hangs
up. A long answer is written by a child process, so that a client that does not read holds nothing up. A short one is
asked for again and again, and costs no process. A follower that does not read is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

from ..host import unix_socket
from ..host.agent_socket import FOLLOW, TIMEOUT_S, silent
from ..host.date import utc
from .forked import close_what_is_the_parents, keep_from_children

_LONGEST_QUESTION, _CHUNK = 64, 1 << 16
#: Clients at a time.
_MOST = 32


class Inquiries:
    """The agent's end. `answers` makes the answer to each question but `follow`, and to those of `short`."""

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        answers: Mapping[str, Callable[[], Any]],
        short: Mapping[str, Callable[[], Any]] | None = None,
    ) -> None:
        self._selector, self._answers, self._short = selector, answers, short or {}
        self._clients: set[socket.socket] = set()
        self._followers: set[socket.socket] = set()
        self._path, self._peer = path, keep_from_children(unix_socket.listening(path))
        selector.register(self._peer, selectors.EVENT_READ, self._accept)

    def tell(self, message: str, **fields: str) -> None:
        """Tell followers of an event."""
        if not self._followers:
            return
        line = json.dumps({"time": utc(), "message": message, **fields})
        for follower in list(self._followers):
            try:
                whole = follower.send(f"{line}\n".encode()) == len(line.encode()) + 1
            except OSError:
                whole = False
            if not whole:
                self._close(follower)

    def close(self) -> None:
        """Hang up, and leave no socket behind."""
        for client in list(self._clients):
            self._close(client)
        self._selector.unregister(self._peer)
        self._peer.close()
        # By now another agent may listen there.
        if not unix_socket.is_served(self._path):
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _accept(self, _mask: int) -> None:
        try:
            client, _address = self._peer.accept()
        except OSError:
            return
        client.setblocking(False)
        if len(self._clients) >= _MOST:
            client.close()
            return
        self._clients.add(client)
        self._selector.register(client, selectors.EVENT_READ, lambda _mask: self._read(client))

    def _read(self, client: socket.socket) -> None:
        try:
            question = client.recv(_LONGEST_QUESTION).decode("ascii", "replace").strip()
        except BlockingIOError:
            return
        except OSError:
            question = ""
        if question == FOLLOW:
            self._followers.add(client)
            return
        if question in self._short:
            # The socket of a client that has just asked is empty, so this does not block.
            with contextlib.suppress(OSError):
                client.send(json.dumps(self._short[question]()).encode())
        elif question in self._answers:
            self._answer(client, self._answers[question])
        self._close(client)

    def _answer(self, client: socket.socket, answer: Callable[[], Any]) -> None:
        """By a grandchild, which nobody has to wait for."""
        child = os.fork()
        if child == 0:
            try:
                close_what_is_the_parents()
                if os.fork() == 0:
                    client.settimeout(TIMEOUT_S)
                    client.sendall(json.dumps(answer()).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)

    def _close(self, client: socket.socket) -> None:
        self._clients.discard(client)
        self._followers.discard(client)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client)
        client.close()


class Followed:
    """The events that the agent tells, without waiting for any."""

    def __init__(self, path: Path) -> None:
        """Raises `HostError` where it does not answer."""
        try:
            self._peer = unix_socket.connected(path, TIMEOUT_S)
            self._peer.sendall(f"{FOLLOW}\n".encode())
        except OSError as error:
            raise silent(path, error) from error
        self._peer.setblocking(False)
        self._rest = b""
        self.ended = False

    def fileno(self) -> int:
        return self._peer.fileno()

    def events(self) -> Iterator[Mapping[str, str]]:
        """What has come since the last call."""
        while not self.ended:
            try:
                data = self._peer.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.ended = not data
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def close(self) -> None:
        """Hang up."""
        self._peer.close()
