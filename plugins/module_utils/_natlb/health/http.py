# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of HTTP, and what an answer says of a backend. Pure."""

from __future__ import annotations

import re

from ..model.health import Health
from .question import Question
from .state import Outcome
from .stream import Talk

#: Of the body, and of all in front of it.
LONGEST_BODY, LONGEST_HEAD = 65536, 65536
_LONGEST_LINE = 8192
_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? +(\d{3})(?:[ \t]+([^\r\n]*))?\s*\Z")
_NAMED = re.compile(r"\[?([^\]]*?)\]?(?::\d+)?\Z")


def talk(question: Question) -> Talk:
    """What is said to a backend, and who judges the answer."""
    health = question.health
    host = health.host or question.target
    lines = [
        f"{health.method} {health.path} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: natlb",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    request = "".join(f"{line}\r\n" for line in [*lines, ""]).encode()
    return Talk(request, Answer(health), f"{health.method} {health.path} of")


def server_name(host: str) -> str:
    """The name of a `Host` header, without its port."""
    if host.count(":") > 1 and not host.startswith("["):
        return host
    match = _NAMED.match(host)
    return match[1] if match else host


class Answer:
    """Judges the answer to one request: the status as soon as it is there, then the body if a text is looked for."""

    __slots__ = ("_body", "_chunk", "_data", "_health", "_left", "_status", "_wanted")

    def __init__(self, health: Health) -> None:
        self._health = health
        self._wanted = health.body.encode() if health.body is not None else None
        self._data = bytearray()
        self._status = ""
        #: What came of the body; None while what comes is not the body yet.
        self._body: bytearray | None = None
        #: How much of the body is still to come, or of this chunk of it; None where its end is that of the connection.
        self._left: int | None = None
        self._chunk = False

    def feed(self, data: bytes) -> Outcome | None:
        """As `stream.Judge`."""
        self._data += data
        if self._body is None:
            outcome = self._head(ended=not data)
            if outcome is not None:
                return outcome
        return self._search(ended=not data) if self._body is not None else None

    def _head(self, ended: bool) -> Outcome | None:
        if not self._status:
            line, newline, _rest = self._data.partition(b"\n")
            if not newline and not ended and len(line) <= _LONGEST_LINE:
                return None
            outcome = self._first_line(bytes(line), bool(newline))
            if outcome is not None or not self._status:
                return outcome
        end = re.search(rb"\r?\n\r?\n", self._data)
        if end is None:
            if ended or len(self._data) > LONGEST_HEAD:
                return Outcome("down", f"status {self._status}, but no end of the header")
            return None
        head = bytes(self._data[: end.start()]).lower()
        del self._data[: end.end()]
        if self._status.startswith("1"):
            # An interim answer (RFC 9110, section 15.2); the final one follows.
            self._status = ""
            return self._head(ended)
        self._body = bytearray()
        self._chunk = re.search(rb"\ntransfer-encoding:[^\n]*chunked", head) is not None
        length = re.search(rb"\ncontent-length:[ \t]*(\d{1,12})", head)
        self._left = 0 if self._chunk else int(length[1]) if length else None
        return None

    def _first_line(self, line: bytes, whole: bool) -> Outcome | None:
        match = _STATUS.match(line) if whole else None
        if match is None:
            if not line:
                return Outcome("down", "it closed the connection without an answer")
            if not whole and line.startswith(b"HTTP/"):
                return Outcome("down", f"the answer ends within its first line, {_shown(line)}")
            return Outcome("down", f"{_shown(line)} is no HTTP")
        self._status = _printable(b" ".join(match.groups(b"")))
        number = int(match[1])
        if number < 200:
            return None
        if not any(low <= number <= high for low, high in self._health.status):
            return Outcome("down", f"status {self._status}")
        return Outcome("up", f"status {self._status}") if self._wanted is None else None

    def _search(self, ended: bool) -> Outcome | None:
        body, wanted = self._body, self._wanted
        if body is None or wanted is None:
            return None
        before = max(0, len(body) - len(wanted))
        complete = self._take(body) or ended or len(body) >= LONGEST_BODY
        if body.find(wanted, before, LONGEST_BODY) >= 0:
            return Outcome("up", f"status {self._status}, with the text")
        if complete:
            return Outcome("down", f"status {self._status}, but {_shown(wanted)} is not in its body")
        return None

    def _take(self, body: bytearray) -> bool:
        """Move what came into the body; whether it is complete."""
        while True:
            piece = self._data if self._left is None else self._data[: self._left]
            body += piece
            del self._data[: len(piece)]
            if self._left is None:
                return False
            self._left -= len(piece)
            if self._left:
                return False
            if not self._chunk:
                return True
            size = re.match(rb"(?:\r?\n)?([0-9A-Fa-f]{1,8})[^\n]*\n", self._data)
            if size is None:
                # Either there is no more of it yet, or this is no length of a chunk.
                return len(self._data) > _LONGEST_LINE
            # Before the data goes that the match refers to.
            self._left = int(size[1], 16)
            del self._data[: size.end()]
            if not self._left:
                return True


def _shown(data: bytes) -> str:
    return f"'{_printable(data)}'"


def _printable(data: bytes) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in data.decode(errors="replace").strip())
    return text if len(text) <= 60 else text[:57] + "..."
