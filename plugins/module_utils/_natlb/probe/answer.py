# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads an answer: its sender, or the error in it. Pure."""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from re import Pattern
from typing import Any, cast

from ..errors import NatlbError
from ..model import values
from .settings import Settings

#: An answer is read up to here; who answered stands in its beginning.
MAX_ANSWER = 65536


def identity(answer: str, pattern: Pattern[str] | None) -> str | None:
    """The name of the sender: group 1 of the pattern, or all that it matches, or without a pattern the first word."""
    if pattern is None:
        words = answer.split(None, 1)
        return words[0] if words else None
    match = pattern.search(answer)
    if match is None:
        return None
    return (match.group(1) if pattern.groups else match.group(0)) or None


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    head: str
    body: str


class _Buffer:
    """What http.client asks of a socket, over bytes that are here already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_args: Any, **_kwargs: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


def read_http(data: bytes, ended: bool) -> HttpAnswer | None:
    """The answer in `data`, or None while more of it is to come. `ended`: the peer closed.

    Raises `NatlbError` where it is not HTTP or was cut short. An answer longer than `MAX_ANSWER` is cut there.
    """
    head, separator, _rest = data.partition(b"\r\n\r\n")
    if not separator:
        if ended or len(data) >= MAX_ANSWER or not b"HTTP/".startswith(data[:5]):
            raise NatlbError("answer: is not HTTP")
        return None
    response = http.client.HTTPResponse(cast(socket.socket, _Buffer(data)))
    try:
        response.begin()
        if not ended and response.length is None and not response.chunked and len(data) < MAX_ANSWER:
            return None
        body = response.read()
    except http.client.IncompleteRead as error:
        body = error.partial
        if len(data) < MAX_ANSWER:
            if ended:
                raise NatlbError("answer: was cut short") from None
            return None
    except (http.client.HTTPException, ValueError):
        raise NatlbError("answer: is not HTTP") from None
    return HttpAnswer(response.status, head.decode(errors="replace"), body.decode(errors="replace"))


def responder(data: bytes, ended: bool, settings: Settings) -> str | None:
    """The name in what was received so far, or None while it may still come.

    Raises `NatlbError`, with the message that is counted, where it cannot come any more. A TCP answer is read by whole
    lines, because half of one could hold half a name.
    """
    if settings.protocol == "http":
        answer = read_http(data, ended)
        if answer is None:
            return None
        if not _right_status(answer.status, settings.statuses):
            raise NatlbError(f"answer: HTTP status {answer.status}")
        texts: tuple[str, ...] = (answer.body, answer.head) if settings.identify else (answer.body,)
    else:
        whole = ended or settings.protocol == "udp" or len(data) >= MAX_ANSWER
        texts = ((data if whole else data[: data.rfind(b"\n") + 1]).decode(errors="replace"),)
    for text in texts:
        name = identity(text, settings.identify)
        if name is not None:
            return values.shown(name) if not name.isprintable() else name[:253]
    if settings.protocol == "tcp" and not ended and len(data) < MAX_ANSWER:
        return None
    raise NatlbError(_nobody(texts[0]))


def _right_status(status: int, wanted: Sequence[int]) -> bool:
    return status in wanted if wanted else 200 <= status < 400


def _nobody(text: str) -> str:
    if not text.strip():
        return "answer: is empty"
    return f"answer: identify does not match {values.shown(text[:200])}"
