# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each type of check takes for an answer, with real sockets, each bounded in time."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _natlb.model.effective import Place
from checks_lab import LOCAL, OK, Loop, answering, dripping, encrypted, full, hanging, service, unused_port

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nre\r\n3;x=y\r\nady\r\n0\r\n\r\n"


def test_a_port_that_refuses_is_down(loop: Callable[..., Loop]) -> None:
    port = unused_port()
    event = loop(service(port, type="tcp")).event()
    assert event.finding.state == "down"
    assert event.finding.reason == f"connect to {LOCAL}:{port}: Connection refused, 2 of 2"
    assert (event.places, event.weight, event.name) == ((Place("web", "10.0.0.4", None),), None, "web2")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event.finding.since)


def test_a_port_that_listens_is_up_and_its_program_hears_nothing(
    loop: Callable[..., Loop], listen: Callable[..., int]
) -> None:
    heard: list[int] = []
    found = loop(service(listen(lambda _peer: heard.append(1)), type="tcp", interval=0.1, timeout=0.1))
    event = found.event()
    assert (event.finding.state, event.finding.reason) == ("up", "")
    several = time.monotonic() + 0.5
    found.until(lambda: time.monotonic() > several)
    assert heard == []


def test_a_backlog_that_is_full_is_no_answer(loop: Callable[..., Loop]) -> None:
    with contextlib.ExitStack() as stack:
        port = full(stack)
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
    ("parts", "keys", "state", "reason"),
    [
        ([OK], {}, "up", ""),
        ([OK], {"body": "ready"}, "up", ""),
        ([CHUNKED[:-9], CHUNKED[-9:]], {"body": "ready"}, "up", ""),
        ([b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 60000, b"ready"], {"body": "ready"}, "up", ""),
        ([b"HTTP/1.1 500 No\r\n\r\n"], {}, "down", "GET / of ADDRESS: status 500 No, 2 of 2"),
        ([], {}, "down", "GET / of ADDRESS: it closed the connection without an answer, 2 of 2"),
        ([OK], {"verify": True}, "down", "TLS with ADDRESS: self-signed certificate, 2 of 2"),
    ],
)
def test_answers_of_https(
    loop: Callable[..., Loop],
    listen: Callable[..., int],
    certificate: Path,
    parts: list[bytes],
    keys: dict[str, Any],
    state: str,
    reason: str,
) -> None:
    port = listen(encrypted(certificate, answering(*parts)))
    found = loop(service(port, type="https", interval=1, timeout=1, **keys)).event().finding
    words = found.reason.replace(f"{LOCAL}:{port}", "ADDRESS").replace("self signed", "self-signed")
    assert (found.state, words) == (state, reason)


@pytest.mark.parametrize(
    ("host", "state", "reason"),
    [
        ("www.example.com:8443", "up", ""),
        (None, "up", ""),
        ("other.example.com", "down", "Hostname mismatch, certificate is not valid for 'other.example.com'."),
    ],
)
def test_a_certificate_is_for_the_host_that_is_asked(
    loop: Callable[..., Loop],
    listen: Callable[..., int],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str | None,
    state: str,
    reason: str,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "certificate"))
    port = listen(encrypted(certificate, answering(OK)))
    keys = {} if host is None else {"host": host}
    found = loop(service(port, type="https", verify=True, interval=1, timeout=1, **keys)).event().finding
    assert found.state == state
    assert reason in found.reason


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (hanging(), "TLS with ADDRESS: no answer within 0.15 s"),
        (answering(b"HTTP/1.1 200 OK\r\n\r\n"), "TLS with ADDRESS: wrong version number"),
        (answering(), "TLS with ADDRESS: "),
    ],
)
def test_who_does_not_speak_tls_is_down(
    loop: Callable[..., Loop], listen: Callable[..., int], serve: Callable[[socket.socket], None], reason: str
) -> None:
    port = listen(serve)
    found = loop(service(port, type="https")).event().finding
    assert found.reason.replace(f"{LOCAL}:{port}", "ADDRESS").startswith(reason)


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


def name_server(code: int = 0, number: int = 0) -> Callable[[bytes], bytes]:
    def answer(query: bytes) -> bytes:
        asked, flags = struct.unpack_from("!HH", query)
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
