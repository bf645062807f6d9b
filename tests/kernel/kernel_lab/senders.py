# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP clients that do not pause, whoever answers, or whether anybody does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import NamedTuple

from .traffic import connected

#: For an answer, and between two questions.
PAUSE_S = 0.01

_senders: list[Sender] = []
_halt = threading.Event()


class Sender(NamedTuple):
    """Who answered last, and the longest time without an answer so far."""

    name: str
    silence_s: float


def begin(target: str, count: int) -> None:
    """From so many sockets, until `halt`."""
    _halt.clear()
    _senders.clear()
    for number in range(count):
        sock = connected(target, "udp")
        _senders.append(Sender(_answer(sock), 0.0))
        sock.settimeout(PAUSE_S)
        threading.Thread(target=_send, args=(sock, number), daemon=True).start()


def halt() -> None:
    _halt.set()


def now() -> list[Sender]:
    return list(_senders)


def _send(sock: socket.socket, number: int) -> None:
    heard = time.monotonic()
    with sock:
        while not _halt.wait(PAUSE_S):
            with contextlib.suppress(OSError):
                name, at = _answer(sock), time.monotonic()
                _senders[number] = Sender(name, max(_senders[number].silence_s, at - heard))
                heard = at


def _answer(sock: socket.socket) -> str:
    sock.send(b"?\n")
    return sock.recv(512).decode().split()[0]
