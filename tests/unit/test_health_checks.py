# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of backends with real sockets on the loopback interface, each bounded in time."""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
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

    def until(self, reached: Callable[[], bool], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds
        while not reached():
            now = time.monotonic()
            assert now < end, self.events
            self.checker.advance(now)
            due = self.checker.next_due()
            wait = min(end, due if due is not None else end) - time.monotonic()
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


@pytest.fixture
def loop() -> Iterator[Callable[..., Loop]]:
    with contextlib.ExitStack() as stack:

        def begin(*services: Service, **more: Any) -> Loop:
            found = Loop(*services, **more)
            stack.callback(found.close)
            return found

        yield begin


@pytest.fixture
def listen() -> Iterator[Callable[..., int]]:
    """Listens on a port and lets `serve` speak with whoever connects; nobody accepts where there is none."""
    with contextlib.ExitStack() as stack:

        def start(serve: Callable[[socket.socket], None] | None = None) -> int:
            server = stack.enter_context(socket.create_server((LOCAL, 0), backlog=64))

            def accept() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        peer, _address = server.accept()
                        peer.settimeout(2)
                        with peer, contextlib.suppress(OSError):
                            assert serve
                            serve(peer)

            if serve is not None:
                thread = threading.Thread(target=accept)
                thread.start()
                stack.callback(thread.join)
                stack.callback(server.shutdown, socket.SHUT_RDWR)
            return int(server.getsockname()[1])

        yield start


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
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n3;x=y\r\nady\r\n0\r\n\r\n"


def test_a_port_that_refuses_is_down(loop: Callable[..., Loop]) -> None:
    port = unused_port()
    event = loop(service(port, type="tcp")).event()
    assert event.finding.state == "down"
    assert event.finding.reason == f"connect to {LOCAL}:{port}: Connection refused, 2 of 2"
    assert (event.places, event.weight, event.name) == ((Place("web", "10.0.0.4", None),), None, "web2")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", event.finding.since)


def test_a_port_that_listens_is_up_and_its_program_hears_nothing(
    loop: Callable[..., Loop], listen: Callable[..., int]
) -> None:
    heard: list[int] = []
    event = loop(service(listen(lambda _peer: heard.append(1)), type="tcp")).event()
    assert (event.finding.state, event.finding.reason) == ("up", "")
    assert heard == []


def test_a_backlog_that_is_full_is_no_answer(loop: Callable[..., Loop]) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((LOCAL, 0), backlog=0))
        for _ in range(3):
            peer = stack.enter_context(socket.socket())
            peer.setblocking(False)
            peer.connect_ex(server.getsockname())
        port = server.getsockname()[1]
        event = loop(service(port, type="tcp")).event()
        assert event.finding.reason == f"connect to {LOCAL}:{port}: no answer within 0.15 s, 2 of 2"


@pytest.mark.parametrize(
    ("serve", "keys", "state", "reason"),
    [
        (answering(OK), {}, "up", ""),
        (hanging(OK), {}, "up", ""),
        (hanging(b"HTTP/1.1 204\r\n"), {"status": "200-299"}, "up", ""),
        (answering(b"HTTP/1.0 301 Moved\r\nLocation: /\r\n\r\n"), {}, "down", "status 301 Moved"),
        (answering(b"HTTP/1.0 301 Moved\r\nLocation: /\r\n\r\n"), {"status": "200-399"}, "up", ""),
        (answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), {}, "down", "status 503 Service Unavailable"),
        (answering(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK), {}, "up", ""),
        (hanging(OK), {"body": "ready"}, "up", ""),
        (hanging(CHUNKED), {"body": "ready"}, "up", ""),
        (answering(b"HTTP/1.0 200 OK\r\n\r\nrea", b"dy"), {"body": "ready"}, "up", ""),
        (hanging(OK), {"body": "steady"}, "down", "status 200 OK, but 'steady' is not in its body"),
        (hanging(CHUNKED), {"body": "re\r"}, "down", "status 200 OK, but 're' is not in its body"),
        (answering(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 70000 + b"ready"), {"body": "ready"}, "down", "not in its body"),
        (answering(), {}, "down", "it closed the connection without an answer"),
        (answering(b"HTTP/1.1 20"), {}, "down", "the answer ends within its first line, 'HTTP/1.1 20'"),
        (hanging(b"HTTP/1.1 20"), {}, "down", "no answer within 0.15 s"),
        (hanging(b"HTTP/1.1 200 OK\r\n\r\n"), {"body": "x"}, "down", "no answer within 0.15 s"),
        (hanging(), {}, "down", "no answer within 0.15 s"),
        (dripping, {}, "down", "no answer within 0.15 s"),
        (answering(b"SSH-2.0-OpenSSH_9.2\r\n"), {}, "down", "'SSH-2.0-OpenSSH_9.2' is no HTTP"),
        (hanging(b"x" * 20000), {}, "down", "is no HTTP"),
        (None, {}, "down", "no answer within 0.15 s"),
    ],
)
def test_answers_of_http(
    loop: Callable[..., Loop],
    listen: Callable[..., int],
    serve: Callable[[socket.socket], None] | None,
    keys: dict[str, Any],
    state: str,
    reason: str,
) -> None:
    event = loop(service(listen(serve), type="http", path="/ready", **keys)).event()
    assert event.finding.state == state
    assert reason in event.finding.reason
    assert state == "up" or event.finding.reason.startswith(f"GET /ready of {LOCAL}:")


@pytest.mark.parametrize(
    ("keys", "head"),
    [
        ({}, "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"),
        ({"host": "www.example.com"}, "GET / HTTP/1.1\r\nHost: www.example.com\r\n"),
        ({"path": "/a?b=c", "method": "HEAD"}, "HEAD /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"),
    ],
)
def test_what_is_requested(
    loop: Callable[..., Loop], listen: Callable[..., int], keys: dict[str, Any], head: str
) -> None:
    seen: list[bytes] = []

    def serve(peer: socket.socket) -> None:
        seen.append(peer.recv(4096))
        peer.sendall(OK)

    port = listen(serve)
    assert loop(service(port, type="http", **keys)).event().finding.state == "up"
    assert seen[0].decode().startswith(head.format(port=port))
    assert seen[0].endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("serve", "state", "weight", "reason"),
    [
        (lambda peer: peer.sendall(b"up\n"), "up", None, "it says 'up'"),
        (lambda peer: peer.sendall(b"up 75%"), "up", 0.75, "it says 'up 75%'"),
        (lambda peer: peer.sendall(b"drain\n"), "drain", None, "it says 'drain'"),
        (lambda peer: peer.sendall(b"down # no disk\n"), "down", None, "it says 'down': no disk"),
        (lambda _peer: None, "down", None, "it says nothing, 2 of 2"),
        (lambda peer: peer.recv(10), "down", None, "no answer within 0.15 s, 2 of 2"),
    ],
)
def test_agents_of_backends(
    loop: Callable[..., Loop], listen: Callable[..., int], serve: Any, state: str, weight: float | None, reason: str
) -> None:
    port = listen(serve)
    event = loop(service(port, type="agent")).event()
    assert (event.finding.state, event.weight) == (state, weight)
    assert event.finding.reason == f"agent at {LOCAL}:{port}: {reason}"


@pytest.fixture
def answer_datagrams() -> Iterator[Callable[..., int]]:
    with contextlib.ExitStack() as stack:

        def start(answer: Callable[[bytes], bytes | None]) -> int:
            server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            server.bind((LOCAL, 0))
            stopped = threading.Event()

            def serve() -> None:
                while True:
                    data, address = server.recvfrom(65535)
                    if stopped.is_set():
                        return
                    found = answer(data)
                    if found is not None:
                        server.sendto(found, address)

            thread = threading.Thread(target=serve)
            thread.start()

            def stop() -> None:
                stopped.set()
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waking:
                    waking.sendto(b"", server.getsockname())
                thread.join()

            stack.callback(stop)
            return int(server.getsockname()[1])

        yield start


def name_server(code: int = 0, number: int = 0) -> Callable[[bytes], bytes]:
    def answer(query: bytes) -> bytes:
        asked, flags, *_ = struct.unpack_from("!HH", query)
        assert query[12:] == b"\3www\7example\3com\0\0\1\0\1"
        return struct.pack("!HHHHHH", (asked + number) & 0xFFFF, flags | 0x8000 | code, 1, 0, 0, 0) + query[12:]

    return answer


DNS = {"type": "dns", "query": "www.example.com"}


@pytest.mark.parametrize(
    ("answer", "keys", "state", "reason"),
    [
        (lambda data: b"pong" if data == b"ping" else None, {"type": "udp", "send": "ping"}, "up", ""),
        (lambda _data: b"<pong>", {"type": "udp", "send": "ping", "expect": "pong"}, "up", ""),
        (lambda data: data + b"\xff", {"type": "udp", "send": "hex:00", "expect": "hex:00ff"}, "up", ""),
        (lambda _data: b"pang", {"type": "udp", "send": "ping", "expect": "pong"}, "down", "has no 'pong' in it"),
        (lambda _data: None, {"type": "udp", "send": "ping"}, "down", "no answer within 0.15 s"),
        (name_server(), DNS, "up", ""),
        (name_server(3), DNS, "down", "NXDOMAIN for www.example.com"),
        (name_server(2), DNS, "down", "SERVFAIL for www.example.com"),
        (name_server(number=1), DNS, "down", "no answer within 0.15 s"),
        (lambda _data: b"?", DNS, "down", "no answer within 0.15 s"),
    ],
)
def test_datagrams(
    loop: Callable[..., Loop],
    answer_datagrams: Callable[..., int],
    answer: Any,
    keys: dict[str, Any],
    state: str,
    reason: str,
) -> None:
    event = loop(service(answer_datagrams(answer), **keys)).event()
    assert event.finding.state == state
    assert reason in event.finding.reason


@pytest.mark.parametrize("keys", [{"type": "udp", "send": "ping"}, DNS])
def test_a_port_that_refuses_datagrams_is_down(loop: Callable[..., Loop], keys: dict[str, Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((LOCAL, 0))
        port = server.getsockname()[1]
    event = loop(service(port, **keys)).event()
    assert event.finding.reason == f"ask {LOCAL}:{port}: Connection refused, 2 of 2"
