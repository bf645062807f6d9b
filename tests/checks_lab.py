# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What checks are tried with: a loop that runs them, and servers of many manners, all on the loopback interface."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _natlb.health.checks import Checker, Event
from _natlb.model.effective import Finding, Place
from _natlb.model.entities import Service
from _natlb.model.services import parse_config

LOCAL = "127.0.0.1"
FAST: dict[str, Any] = {"interval": 0.2, "timeout": 0.15, "fall": 2, "rise": 2}


def service(port: int, name: str = "web", address: str = LOCAL, **health: Any) -> Service:
    """A service with one backend whose checks go to a port of this host."""
    return parse_config(
        [
            {
                "name": name,
                "listen": "192.0.2.10:80",
                "health": {**FAST, "port": port, "address": address, **health},
                "backends": [{"address": "10.0.0.4", "name": "web2"}],
            }
        ]
    ).services[0]


class Loop:
    """The loop of the agent, as far as checks go."""

    def __init__(self, *services: Service, findings: dict[Place, Finding] | None = None) -> None:
        self.selector = selectors.DefaultSelector()
        self.checker = Checker(self.selector)
        self.checker.set_checks(services, findings or {}, time.monotonic())
        self.events: list[Event] = []

    def until(self, reached: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not reached():
            now = time.monotonic()
            assert now < end, self.events
            self.checker.advance(now)
            self.events += self.checker.take_events()
            due = self.checker.next_due()
            wait = 0.0 if reached() else min(end, due if due is not None else end) - time.monotonic()
            for key, mask in self.selector.select(max(0.0, wait)):
                key.data(mask)
            self.events += self.checker.take_events()

    def event(self) -> Event:
        """The next change."""
        seen = len(self.events)
        self.until(lambda: len(self.events) > seen)
        return self.events[seen]

    def close(self) -> None:
        self.checker.close()
        assert not self.selector.get_map()
        self.selector.close()


def encrypted(folder: Path, serve: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "certificate", folder / "key")

    def serve_encrypted(peer: socket.socket) -> None:
        with tls.wrap_socket(peer, server_side=True) as wrapped:
            serve(wrapped)

    return serve_encrypted


def unused_port() -> int:
    with socket.create_server((LOCAL, 0)) as server:
        return int(server.getsockname()[1])


def answering(*parts: bytes) -> Callable[[socket.socket], None]:
    """Reads a request, then sends these parts, and closes."""

    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        for part in parts:
            peer.sendall(part)

    return serve


def hanging(*parts: bytes) -> Callable[[socket.socket], None]:
    """The same, and waits until the other end has gone."""

    def serve(peer: socket.socket) -> None:
        answering(*parts)(peer)
        while peer.recv(4096):
            pass

    return serve


def dripping(peer: socket.socket) -> None:
    while True:
        peer.sendall(b"H")
        time.sleep(0.02)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready"


def full(stack: contextlib.ExitStack) -> int:
    """A port whose backlog is full, so that nobody gets an answer."""
    server = stack.enter_context(socket.create_server((LOCAL, 0), backlog=0))
    for _time in range(3):
        peer = stack.enter_context(socket.socket())
        peer.setblocking(False)
        peer.connect_ex(server.getsockname())
    return int(server.getsockname()[1])
