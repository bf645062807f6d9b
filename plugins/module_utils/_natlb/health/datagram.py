# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks by one datagram and its answer: text or bytes over UDP, and questions of DNS."""

from __future__ import annotations

import random
import selectors
import socket
import struct
from typing import Callable

from ..model.health import payload
from .attempt import READ, Done, SocketAttempt
from .question import Question
from .state import Outcome

_LARGEST = 65535
_HEADER = struct.Struct("!HHHHHH")
_RECURSE, _ANSWER, _CODE = 0x0100, 0x8000, 0x000F
_ADDRESS, _INTERNET = 1, 1
#: RFC 1035, section 4.1.1.
_CODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
#: What an answer means; None where it is none to this question.
Judge = Callable[[bytes], "Outcome | None"]


class Datagram(SocketAttempt):
    """A backend that answers is what the judge says. One that refuses (ICMP port unreachable) is down."""

    __slots__ = ("_judge", "_request")
    _kind = socket.SOCK_DGRAM

    def __init__(self, question: Question, selector: selectors.BaseSelector, done: Done) -> None:
        super().__init__(question, selector, done)
        self._doing = "send to"
        self._request, self._judge = (_dns if question.health.type == "dns" else _text)(question)

    def _ready(self, mask: int) -> None:
        peer = self._socket
        if peer is None:
            return
        try:
            if mask & READ == 0:
                peer.send(self._request)
                self._doing = "ask"
                self._wait(READ)
                return
            outcome = self._judge(peer.recv(_LARGEST))
        except BlockingIOError:
            return
        if outcome is not None:
            self._finish(outcome._replace(reason=f"{self._doing} {self._question.target}: {outcome.reason}"))


def _text(question: Question) -> tuple[bytes, Judge]:
    expected = question.health.expect
    wanted = payload(expected) if expected is not None else b""

    def judge(answer: bytes) -> Outcome:
        if wanted in answer:
            return Outcome("up", "it answers")
        return Outcome("down", f"the answer of {len(answer)} bytes has no {expected!r} in it")

    return payload(question.health.send), judge


def _dns(question: Question) -> tuple[bytes, Judge]:
    name = question.health.query
    # Only whoever saw the question can answer it; chance that anybody could guess is enough for that beside a port.
    number = random.getrandbits(16)

    def judge(answer: bytes) -> Outcome | None:
        if len(answer) < _HEADER.size:
            return None
        theirs, flags, *_counts = _HEADER.unpack_from(answer)
        if theirs != number or not flags & _ANSWER:
            return None
        code = flags & _CODE
        if code:
            return Outcome("down", f"{_CODES.get(code, f'error {code}')} for {name}")
        return Outcome("up", f"it answers for {name}")

    return dns_query(name, number), judge


def dns_query(name: str, number: int) -> bytes:
    """A question for the IPv4 address of a name (RFC 1035, section 4)."""
    labels = [label.encode() for label in name.split(".") if label]
    written = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return _HEADER.pack(number, _RECURSE, 1, 0, 0, 0) + written + struct.pack("!HH", _ADDRESS, _INTERNET)
