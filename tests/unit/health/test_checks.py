# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of backends with real sockets on the loopback interface, each bounded in time."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import re
import selectors
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _natlb.health.checks import Checker, Event
from _natlb.host import children
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


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate by nobody, for 127.0.0.1 and www.example.com."""
    folder = tmp_path_factory.mktemp("certificate")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    argv = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "2", "-subj", "/CN=natlb"]
    names = ["-addext", "subjectAltName=DNS:www.example.com,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key"), "-out", str(folder / "certificate")]
    subprocess.run([*argv, *names, *files], check=True, capture_output=True, timeout=20)
    return folder


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


ME = pwd.getpwuid(os.geteuid()).pw_name


def command(line: str, user: str = ME, **keys: Any) -> Service:
    return service(8080, type="command", argv=["/bin/sh", "-c", line], user=user, interval=1, timeout=0.5, **keys)


@pytest.mark.parametrize(
    ("line", "state", "reason"),
    [
        ("true", "up", ""),
        ("test {address}:{port} = 127.0.0.1:8080", "up", ""),
        ("test $NATLB_ADDRESS:$NATLB_PORT = 127.0.0.1:8080", "up", ""),
        ("exit 3", "down", "sh: exit status 3, 2 of 2"),
        ("echo first; echo '  disk   full' >&2; echo; exit 1", "down", "sh: exit status 1: disk full, 2 of 2"),
        ("kill -TERM $$", "down", "sh: ended by SIGTERM, 2 of 2"),
        ("read line", "down", "sh: exit status 1, 2 of 2"),
        ("exec sleep 100", "down", "sh: not done within 0.5 s, 2 of 2"),
        ("exec >&- 2>&-; exec sleep 100", "down", "sh: not done within 0.5 s, 2 of 2"),
        ("trap '' TERM INT HUP; while :; do sleep 100; done", "down", "sh: not done within 0.5 s, 2 of 2"),
        ("yes", "down", "sh: printed more than 1 MiB, 2 of 2"),
    ],
)
def test_commands(loop: Callable[..., Loop], line: str, state: str, reason: str) -> None:
    found = loop(command(line)).event().finding
    assert (found.state, found.reason) == (state, reason)


@pytest.mark.parametrize(
    ("argv", "user", "reason"),
    [
        (["/no/such/program"], ME, "cannot run /no/such/program: No such file or directory"),
        (["/etc/passwd"], ME, "cannot run /etc/passwd: Permission denied"),
        (["true"], "nobody-knows", "cannot run true: there is no user nobody-knows"),
    ],
)
def test_a_command_that_cannot_be_run_says_nothing_of_a_backend(
    loop: Callable[..., Loop], argv: list[str], user: str, reason: str
) -> None:
    """All backends would be down at once because of a package that is missing on the balancer."""
    found = loop(service(80, type="command", argv=argv, user=user))
    for _check in range(4):
        began = [status.began for status in found.checker.overview()]
        found.until(lambda began=began: [status.began for status in found.checker.overview()] != began)  # type: ignore[misc]
    (status,) = found.checker.overview()
    assert (status.result, status.last, status.finding) == ("unasked", reason, None)
    assert not found.events
    assert found.checker.unasked.told(time.monotonic()) == f"{LOCAL}:80 cannot be checked: {reason}"


@pytest.mark.parametrize("watched", [True, False], ids=["pidfd", "old kernel"])
@pytest.mark.parametrize(("line", "state"), [("", "up"), ("exit 1", "down"), ("sleep 100", "down")])
def test_what_a_command_leaves_behind_is_ended(
    loop: Callable[..., Loop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    watched: bool,
    line: str,
    state: str,
) -> None:
    if not watched:
        monkeypatch.setattr(children, "_watch", lambda _pid: None)
    noted, leaders = tmp_path / "pids", tmp_path / "leaders"
    found = loop(
        command(
            f"echo $$ >> {leaders}; sleep 100 & echo $! >> {noted}; sleep 100 >&- 2>&- & echo $! >> {noted}; {line}"
        )
    )
    assert found.event().finding.state == state
    numbers = [int(number) for number in noted.read_text().split()]
    assert len(numbers) >= 2
    found.until(lambda: not any(is_running(number) for number in numbers))
    # Those that this process began itself leave not even a zombie.
    shells = leaders.read_text().split()[:1]
    found.until(lambda: not any(Path(f"/proc/{number}").exists() for number in shells))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def more_groups() -> Iterator[None]:
    """Groups of root that no other user may come to be in."""
    groups = os.getgroups()
    if os.geteuid() == 0:
        os.setgroups([*groups, 4])
    yield
    if os.geteuid() == 0:
        os.setgroups(groups)


@pytest.mark.usefixtures("more_groups")
def test_a_command_runs_without_rights(loop: Callable[..., Loop], tmp_path: Path) -> None:
    """As nobody, with no group of root's, and with nothing of what this process has open."""
    line = 'test "$(id -un) $(id -G)" = "nobody $(id -g nobody)" && test "$(echo /proc/self/fd/*)" = "$FDS"'
    expected = "/proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/3"
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        checked = command(line.replace("$FDS", expected), user="nobody")
        if os.geteuid():
            found = loop(checked)
            found.until(lambda: next(found.checker.overview()).result == "unasked")
            assert "only root can run a program as nobody" in next(found.checker.overview()).last
        else:
            assert loop(checked).event().finding.state == "up"


def test_one_check_is_shared_by_all_who_ask_the_same(loop: Callable[..., Loop]) -> None:
    port = unused_port()
    services = [
        service(port, "a", type="tcp"),
        service(port, "b", type="tcp", slow_start=30, on_down="reset", fail_open=True),
        service(port, "c", type="tcp", fall=1),
    ]
    found = loop(*services)
    assert len(list(found.checker.overview())) == 2
    found.until(lambda: len(found.events) == 2)
    by_places = {tuple(place.service for place in event.places): event.finding.reason for event in found.events}
    reason = f"connect to {LOCAL}:{port}: Connection refused"
    assert by_places == {("a", "b"): f"{reason}, 2 of 2", ("c",): f"{reason}, 1 of 1"}


def test_who_joins_a_check_is_told_what_is_known(loop: Callable[..., Loop]) -> None:
    port = unused_port()
    first, second = service(port, "a", type="tcp"), service(port, "b", type="tcp")
    found = loop(first)
    event = found.event()
    (place,) = event.places
    found.checker.set_checks([first, second], {place: event.finding}, time.monotonic())
    (told,) = found.checker.take_events()
    assert ([place.service for place in told.places], told.finding) == (["b"], event.finding)
    # Who knows it is not told again, and who left is not any more.
    both = dict.fromkeys((*event.places, *told.places), event.finding)
    found.checker.set_checks([first, second], both, time.monotonic())
    assert found.checker.take_events() == []
    found.checker.set_checks([second], both, time.monotonic())
    assert [status.places for status in found.checker.overview()] == [told.places]


def test_what_was_kept_holds_until_checks_say_otherwise(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    kept = Finding("down", "2026-01-01T00:00:00+00:00", "as it was")
    found = loop(service(listen(), type="tcp", rise=3), findings={Place("web", "10.0.0.4", None): kept})
    event = found.event()
    assert (event.finding.state, event.finding.reason) == ("up", "it accepts connections, 3 of 3")


def test_a_backend_that_comes_back_gets_its_weight_by_and_by(
    loop: Callable[..., Loop], listen: Callable[..., int]
) -> None:
    kept = {Place(name, "10.0.0.4", None): Finding("down") for name in "ab"}
    port = listen()
    found = loop(service(port, "a", type="tcp", slow_start="500ms"), service(port, "b", type="tcp"), findings=kept)
    found.until(lambda: any(event.places[0].service == "a" and event.weight is None for event in found.events))
    shares = {name: [event.weight for event in found.events if event.places[0].service == name] for name in "ab"}
    assert shares["b"] == [None]
    # A machine that is busy may pass over steps.
    first, *later = [share for share in shares["a"][:-1] if share is not None]
    assert first == 0.1
    assert later == sorted(later)
    assert len(later) > 2
    assert {event.finding.state for event in found.events} == {"up"}


def test_a_slow_start_goes_on_after_a_restart(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    """Who asks starts anew; the backend does not."""
    kept = {Place(name, "10.0.0.4", None): Finding("up", share=0.8) for name in "ab"}
    port = listen()
    services = service(port, "a", type="tcp", slow_start=1), service(port, "b", type="tcp")
    found = loop(*services, findings=kept)
    shares: list[tuple[str | None, float | None]] = []

    def are_whole() -> bool:
        shares[:] = [(event.places[0].service, event.weight) for event in found.events]
        return {("a", None), ("b", None)} <= set(shares)

    found.until(are_whole)
    # That of b is left over from a slow start that it has no more. A step of a is left out where it would be late.
    assert shares in ([("b", None), ("a", 0.9), ("a", None)], [("b", None), ("a", None)])


def test_the_word_of_an_agent_outlives_a_restart(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    kept = {Place("web", "10.0.0.4", None): Finding("up", share=0.5)}
    lines = [b"50%\n", b"50%\n", b"up\n"]
    found = loop(
        service(listen(lambda peer: peer.sendall(lines.pop(0) if lines else b"up\n")), type="agent"), findings=kept
    )
    assert found.event().weight is None
    assert lines == []


def test_who_joins_does_not_end_the_slow_start_of_others(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    port = listen()
    first, second = service(port, "a", type="tcp", slow_start=1), service(port, "b", type="tcp")
    place = Place("a", "10.0.0.4", None)
    found = loop(first, findings={place: Finding("down")})
    event = found.event()
    assert event.weight == 0.1
    found.checker.set_checks([first, second], {place: Finding("up", share=0.1)}, time.monotonic())
    found.until(lambda: any(event.places == (place,) and event.weight is None for event in found.events))


def test_a_backend_that_clients_wait_for_is_asked_at_once(loop: Callable[..., Loop]) -> None:
    """An hour between checks, three failures to be down; and now one check within the time of one."""
    port = unused_port()
    slow = parse_config(
        [
            {
                "name": "web",
                "listen": "192.0.2.10:80",
                "health": {"type": "tcp", "interval": "1h", "fall": 3, "port": port, "address": LOCAL},
                "backends": [{"address": "10.0.0.4", "port": 8080}, {"address": "10.0.0.5", "port": 8080}],
            }
        ]
    ).services[0]
    up = {Place("web", f"10.0.0.{n}", 8080): Finding("up") for n in (4, 5)}
    found = loop(slow, findings=up)
    found.checker.check_now("10.0.0.9", 8080)
    found.checker.check_now("10.0.0.4", 8081)
    assert found.checker.next_due() is not None
    found.checker.check_now("10.0.0.4", 8080)
    # The loop waits for seconds, and the next check of its own is an hour away.
    event = found.event()
    assert event.finding.reason == f"connect to {LOCAL}:{port}: Connection refused, clients get no answer"


def full(stack: contextlib.ExitStack) -> int:
    """A port whose backlog is full, so that nobody gets an answer."""
    server = stack.enter_context(socket.create_server((LOCAL, 0), backlog=0))
    for _time in range(3):
        peer = stack.enter_context(socket.socket())
        peer.setblocking(False)
        peer.connect_ex(server.getsockname())
    return int(server.getsockname()[1])


@pytest.mark.parametrize("jump", ["2031-01-01T00:00:00+00:00", "1999-12-31T23:59:59+00:00"], ids=["ahead", "back"])
def test_the_time_of_day_is_for_people_alone(
    loop: Callable[..., Loop], listen: Callable[..., int], monkeypatch: pytest.MonkeyPatch, jump: str
) -> None:
    """Somebody sets the clock while checks run: their number stays what it is, and only `since` shows the new time."""
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the time of day can be set"))
    asked: list[float] = []

    def serve(peer: socket.socket) -> None:
        asked.append(time.monotonic())
        answering(OK if len(asked) <= 3 or len(asked) > 8 else b"")(peer)

    found = loop(service(listen(serve), type="http", interval=0.3, fast_interval=0.2, fall=3, rise=2))
    first = found.event().finding
    found.checker._date = lambda: jump
    down = found.event().finding
    assert (first.state, down.state, down.since) == ("up", "down", jump)
    up = found.event().finding
    assert (up.state, up.since) == ("up", jump)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert min(pauses) > 0.04, "no storm"


def test_a_suspect_has_half_a_second_to_accept(loop: Callable[..., Loop]) -> None:
    with contextlib.ExitStack() as stack:
        port = full(stack)
        found = loop(service(port, type="http", interval=60, timeout=30))
        found.checker.check_now("10.0.0.4", 80)
        reason = found.event().finding.reason
        assert reason == f"connect to {LOCAL}:{port}: no answer within 0.5 s, clients get no answer"


def test_a_suspect_that_answers_others_is_not_out_at_one_failure(loop: Callable[..., Loop]) -> None:
    """On a network that loses packets. It counts as a failure like others."""
    found = loop(service(unused_port(), type="tcp", interval=60, fall=2, fast_interval=0.3))
    found.checker.check_now("10.0.0.4", 80, lambda: lambda: True)
    assert found.event().finding.reason.endswith("Connection refused, 2 of 2")


def test_a_suspect_that_nobody_can_stand_in_for_is_not_out_at_one_failure(loop: Callable[..., Loop]) -> None:
    found = loop(service(unused_port(), type="tcp", interval=60, fall=2, fast_interval=0.3))
    found.checker.check_now("10.0.0.4", 80, is_needed=True)
    assert found.event().finding.reason.endswith("Connection refused, 2 of 2")


def test_a_suspect_is_asked_several_times_at_once(loop: Callable[..., Loop]) -> None:
    """And no more often while that goes on, however many connections are overdue."""
    with socket.create_server((LOCAL, 0)) as server, contextlib.ExitStack() as stack:
        server.setblocking(False)
        peers: list[socket.socket] = []

        def accepted() -> int:
            with contextlib.suppress(BlockingIOError):
                while True:
                    peers.append(stack.enter_context(server.accept()[0]))
            return len(peers)

        found = loop(service(server.getsockname()[1], type="http", interval=60, timeout=30, fall=3))
        found.checker.check_now("10.0.0.4", 80)
        found.until(lambda: accepted() >= 3)
        for _time in range(5):
            found.checker.check_now("10.0.0.4", 80)
        for peer in peers:
            peer.sendall(OK)
        assert found.event().finding.state == "up"
        assert accepted() == 3


def test_a_suspect_that_accepts_has_all_of_its_time(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        time.sleep(0.8)
        peer.sendall(OK)

    found = loop(service(listen(serve), type="http", interval=60, timeout=30))
    found.checker.check_now("10.0.0.4", 80)
    assert found.event().finding.state == "up"


def test_an_answer_that_waits_for_a_busy_process_counts(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    """The loop may have been elsewhere for longer than a check may take."""
    asked, answer = threading.Event(), threading.Event()

    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        asked.set()
        assert answer.wait(5)
        peer.sendall(OK)

    found = loop(service(listen(serve), type="http", fall=1, interval=1, timeout=0.5))
    found.until(asked.is_set)
    answer.set()
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        pass
    assert found.event().finding.state == "up"


def test_what_the_balancer_lacks_is_nobodys_fault(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    """A source address that this host does not have (any more)."""
    found = loop(service(listen(), type="tcp", source="192.0.2.77"))
    found.until(lambda: all(status.last for status in found.checker.overview()))
    (status,) = found.checker.overview()
    assert "Cannot assign requested address" in status.last
    assert (status.finding, status.against) == (None, 0)
    assert found.events == []


def test_checks_come_from_the_source_that_is_named(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    sources: list[str] = []

    def serve(peer: socket.socket) -> None:
        sources.append(peer.getpeername()[0])
        peer.sendall(b"up\n")

    assert loop(service(listen(serve), type="agent", source="127.0.0.9")).event().finding.state == "up"
    assert sources[0] == "127.0.0.9"


def test_a_dead_backend_is_out_at_the_check_that_decides(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    """So within fall * interval + timeout: when each check is due, and late, is a matter of other tests."""
    alive = threading.Event()
    alive.set()
    in_vain: list[socket.socket] = []

    def serve(peer: socket.socket) -> None:
        if alive.is_set():
            answering(OK)(peer)
        else:
            in_vain.append(peer)
            hanging()(peer)

    found = loop(service(listen(serve), type="http", interval=0.5, timeout=0.2, fall=2))
    assert found.event().finding.state == "up"
    alive.clear()
    assert found.event().finding.state == "down"
    assert len(in_vain) == 2
