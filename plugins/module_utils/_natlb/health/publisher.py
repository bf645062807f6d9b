# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishes what `status/scrape.py` collects: as a file for node_exporter, and over HTTP where that is asked for.

Each collection is made by a child process, so that checks go on meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Callable

from ..errors import HostError, NatlbError
from ..host import service_manager, store
from ..model.metrics import Metrics
from .forked import forked

FILE = "natlb.prom"
#: How often the file is written, and after an error.
EVERY_S, RETRY_S = 15.0, 60.0
#: Whoever asks has so long, and so many are answered at once.
TIMEOUT_S, _MOST = 10.0, 4
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Publisher:
    """`due` says when `advance` is to be called next. `collect` gives the text."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        collect: Callable[[bool], str],
        say: Callable[..., None] = service_manager.say,
    ) -> None:
        self._selector, self._collect, self._say = selector, collect, say
        self._wanted = Metrics()
        self._peer: socket.socket | None = None
        self._writer: int | None = None
        self._answering: set[int] = set()
        self.due = float("inf")

    def set_up(self, wanted: Metrics, now: float) -> None:
        """Publish so from now on."""
        if wanted.listen != self._wanted.listen or (wanted.listen and self._peer is None):
            self._listen(wanted.listen)
        if wanted.directory is None:
            self.due = float("inf")
        elif wanted.directory != self._wanted.directory:
            self.due = now
        self._wanted = wanted

    def advance(self, now: float) -> None:
        """Write the file where that is due."""
        self._reap(now)
        if now >= self.due and self._writer is None and self._wanted.directory is not None:
            path = Path(self._wanted.directory, FILE)
            self._writer = forked(lambda: _write(path, self._collect(self._wanted.idle)), "metrics: ")
            self.due = now + EVERY_S

    def close(self) -> None:
        self._listen(None)

    def _listen(self, where: tuple[str, int] | None) -> None:
        if self._peer is not None:
            self._selector.unregister(self._peer)
            self._peer.close()
            self._peer = None
        if where is None:
            return
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        try:
            self._peer = socket.create_server(where, family=family, backlog=16)
        except OSError as error:
            self._say(f"metrics.listen: {where[0]} port {where[1]}: {error.strerror}", service_manager.WARNING)
            return
        self._peer.setblocking(False)
        self._selector.register(self._peer, selectors.EVENT_READ, self._accept)

    def _accept(self, _mask: int) -> None:
        if self._peer is None:
            return
        with contextlib.suppress(OSError):
            client, address = self._peer.accept()
            with client:
                self._answering = {child for child in self._answering if os.waitpid(child, os.WNOHANG)[0] == 0}
                if len(self._answering) < _MOST:
                    idle = self._wanted.idle
                    self._answering.add(
                        forked(lambda: _answer(client, address, lambda: self._collect(idle)), "metrics: ")
                    )

    def _reap(self, now: float) -> None:
        if self._writer is None:
            return
        ended, status = os.waitpid(self._writer, os.WNOHANG)
        if ended:
            self._writer = None
            self.due = now + RETRY_S if status else self.due


def _write(path: Path, text: str) -> None:
    """A folder that is not there is node_exporter's to make."""
    if not path.parent.is_dir():
        raise HostError(f"{path.parent} is not there")
    store.write_text(path, text, 0o644)


def _answer(client: socket.socket, address: tuple[str, int], collect: Callable[[], str]) -> None:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S
        server_version, sys_version = "natlb", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
                return
            try:
                body = collect().encode()
            except NatlbError as error:
                self.send_error(500, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", _TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            """Nothing: whoever scrapes does so every few seconds."""

    client.setblocking(True)
    with contextlib.suppress(OSError):
        Handler(client, address, None)  # type: ignore[arg-type]
