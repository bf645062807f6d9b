# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One request for metrics over HTTP. Nothing but `/metrics` is answered."""

from __future__ import annotations

import contextlib
import socket
from http.server import BaseHTTPRequestHandler
from typing import Callable

from ..errors import NatlbError

#: Whoever asks has so long.
TIMEOUT_S = 10.0
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def answer(client: socket.socket, address: tuple[str, int], collect: Callable[[], str]) -> None:
    """Answer one request of a client that has just connected."""

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
