# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The line that a backend answers with where it speaks for itself, in the protocol of HAProxy's agent-check. Pure.

https://docs.haproxy.org/3.0/configuration.html#5.2-agent-check
"""

from __future__ import annotations

import re

from .question import Question
from .state import Outcome
from .stream import Talk

_LONGEST = 1024
_SHARE = re.compile(r"(\d{1,4})%\Z")
_OUT = {"down": "down", "failed": "down", "fail": "down", "stopped": "down", "maint": "down", "drain": "drain"}
_IN = ("up", "ready")


def talk(_question: Question) -> Talk:
    """Nothing is asked: the backend speaks first."""
    return Talk(b"", Line(), "agent at")


class Line:
    """Judges what an agent says: everything up to the end of the line, or of the connection."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Outcome | None:
        """As `stream.Judge`."""
        self._data += data
        line, *more = re.split(rb"[\r\n]", self._data.lstrip(b"\r\n"), maxsplit=1)
        if not more and data and len(line) <= _LONGEST:
            return None
        return parse(line.decode(errors="replace"))


def parse(line: str) -> Outcome:
    """What a line says: words with spaces or commas between them, and a reason behind `#`. Of several words the one
    that takes it out further holds, whatever their order. Words that mean nothing here (`maxconn:30`) are passed over.
    """
    said, _hash, why = line.partition("#")
    words = [word.lower() for word in re.split(r"[\s,]+", said) if word]
    shares = [int(match[1]) for match in map(_SHARE.match, words) if match]
    out = [_OUT[word] for word in words if word in _OUT]
    if not out and not shares and not any(word in _IN for word in words):
        return Outcome("down", f"it says {_printable(line)!r}, which is no word of agent-check" if line else _SILENT)
    # A backend has a weight of its own in the declaration; more than all of it there is not.
    weight = min(100, shares[-1]) / 100 if shares else None
    reason = f"it says {_printable(said)!r}" + (f": {_printable(why)}" if why.strip() else "")
    if out:
        return Outcome("down" if "down" in out else "drain", reason, None, certain=True)
    if weight == 0:
        return Outcome("drain", reason, None, certain=True)
    return Outcome("up", reason, None if weight == 1 else weight, certain=True)


_SILENT = "it says nothing"


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:100]
