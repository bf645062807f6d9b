# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client and a server that speak in turn on one processor, so that the time of a request is what it costs."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time


def serve(port: int, cpu: int) -> None:
    """Answer each message with as much, until the process ends; the listening socket is open on return."""
    listening = socket.create_server(("", port), backlog=4096)

    def answer(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while message := sock.recv(4096):
                sock.sendall(message)

    def accept() -> None:
        os.sched_setaffinity(0, [cpu])
        while True:
            threading.Thread(target=answer, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def batch(target: str, count: int, kept: bool, cpu: int) -> float:
    """Seconds per request, of so many one after the other: on one connection, or on one for each."""
    os.sched_setaffinity(0, [cpu])
    message = b"x" * 100
    sock = socket.create_connection((target, 80), 5)
    began = time.perf_counter()
    for _unused in range(count):
        if not kept:
            sock.close()
            sock = socket.create_connection((target, 80), 5)
        sock.sendall(message)
        if not sock.recv(4096):
            raise RuntimeError(f"{target} has closed the connection")
    taken = time.perf_counter() - began
    sock.close()
    return taken / count
