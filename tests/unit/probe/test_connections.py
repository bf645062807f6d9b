# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What probe asks for, what it reads in answers, and whole runs against servers on loopback addresses."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from _natlb.errors import ConfigError, NatlbError
from _natlb.probe import answer as probe_answer
from _natlb.probe import connections
from _natlb.probe import settings as probe_settings

DEFAULTS = {
    "target": "127.0.0.1:80",
    "protocol": "tcp",
    "connections": 12,
    "concurrency": 4,
    "timeout": "2s",
    "path": "/",
    "max_errors": 0,
}


def settings(**params: Any) -> probe_settings.Settings:
    return probe_settings.parse_settings({**DEFAULTS, **params})


# --- Input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "result"),
    [
        ("192.0.2.10:80", ("192.0.2.10", 80)),
        ("[2001:db8::10]:443", ("2001:db8::10", 443)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
        ("www.example.org:8080", ("www.example.org", 8080)),
        ("web_1:1", ("web_1", 1)),
        ("localhost.:65535", ("localhost.", 65535)),
    ],
)
def test_targets(target: str, result: tuple[str, int]) -> None:
    assert probe_settings.parse_target(target) == result


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"target": "192.0.2.10"}, "target: '192.0.2.10' is not an address with a port (write ADDRESS:PORT"),
        (
            {"target": "2001:db8::10:80"},
            "target: '2001:db8::10:80' is not an address with a port (write an IPv6 address in",
        ),
        ({"target": "[192.0.2.10]:80"}, "target: '192.0.2.10' is not an IPv6 address"),
        ({"target": "192.0.2.300:80"}, "target: '192.0.2.300' is neither an address nor a host name"),
        ({"target": "192.0.2:80"}, "target: '192.0.2' is neither an address nor a host name"),
        ({"target": "a b:80"}, "target: 'a b' is neither an address nor a host name"),
        ({"target": "-x:80"}, "target: '-x' is neither an address nor a host name"),
        ({"target": "192.0.2.10:99999"}, "target: '99999' is not a port (1-65535)"),
        ({"target": "192.0.2.10:"}, "target: '' is not a port (1-65535)"),
        ({"target": "http://192.0.2.10:80"}, "target: 'http://192.0.2.10:80' is not an address with a port"),
        ({"target": None}, "target: None is not an address with a port"),
        ({"protocol": "sctp"}, "protocol: 'sctp' is not a choice here (choose one of tcp, http, udp)"),
        ({"connections": 0}, "connections: 0 is not a number of connections (1-1000000)"),
        ({"concurrency": 501}, "concurrency: 501 is not a number of connections (1-500)"),
        ({"timeout": "soon"}, "timeout: 'soon' is not a time"),
        ({"timeout": 0}, "timeout: 0 is out of range"),
        ({"identify": "("}, "identify: '(' is not a regular expression: missing )"),
        ({"identify": 7}, "identify: 7 is not a text"),
        ({"protocol": "http", "payload": "x"}, "payload: is only for tcp and udp (for http set path and host)"),
        ({"protocol": "http", "path": "status"}, "path: 'status' does not begin with / (write /status)"),
        ({"protocol": "http", "path": "/a b"}, "path: '/a b' cannot stand in a request"),
        ({"protocol": "http", "host": "a\r\nX: y"}, "host: 'a\\r\\nX: y' cannot stand in a request"),
        ({"status": [200, 99]}, "status[1]: 99 is not an HTTP status"),
        ({"source": "eth0"}, "source: 'eth0' is not an IP address"),
        ({"expected": {}}, "expected: {} names no backend"),
        ({"expected": ["web1"]}, "expected: ['web1'] names no backend"),
        ({"expected": {"web1": 1, "web2": 0}}, "expected.web2: 0 is not a weight (write a number above 0"),
        ({"expected": {"web1": -2}}, "expected.web1: -2 is not a weight"),
        ({"expected": {"web1": "many"}}, "expected.web1: 'many' is not a weight"),
        ({"expected": {"web1": True}}, "expected.web1: True is not a weight"),
        ({"expected": {"web1": float("nan")}}, "expected.web1: nan is not a weight"),
        ({"expected": {"web1": None}}, "expected.web1: None is not a weight"),
        ({"expected": {"a": 1}, "tolerance": -0.1}, "tolerance: -0.1 is not a fraction (0 or more"),
        ({"expected": {"a": 1}, "significance": 1.5}, "significance: 1.5 is not a fraction (0 to 1"),
        ({"max_errors": -1}, "max_errors: -1 is not a number of errors"),
        ({"connect_only": True, "protocol": "http"}, "connect_only: is only for tcp and udp (for an HTTP service"),
        ({"connect_only": True, "identify": "x"}, "connect_only: asks for no names, but identify is given"),
        ({"connect_only": True, "expected": {"a": 1}}, "connect_only: asks for no names, but expected is given"),
    ],
)
def test_bad_input_is_refused_with_its_place(params: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**params)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith(")")


@pytest.mark.parametrize(
    ("params", "payload"),
    [
        ({}, b""),
        ({"protocol": "udp"}, b"natlb-probe\n"),
        ({"protocol": "udp", "payload": ""}, b""),
        ({"payload": "hello"}, b"hello"),
    ],
)
def test_payloads(params: dict, payload: bytes) -> None:
    assert settings(**params).payload == payload


@pytest.mark.parametrize(
    ("params", "lines"),
    [
        ({}, [b"GET / HTTP/1.1", b"Host: 127.0.0.1"]),
        ({"target": "[::1]:8080", "path": "/who?x=1"}, [b"GET /who?x=1 HTTP/1.1", b"Host: [::1]:8080"]),
        ({"host": "www.example.org"}, [b"GET / HTTP/1.1", b"Host: www.example.org"]),
    ],
)
def test_http_requests(params: dict, lines: list[bytes]) -> None:
    payload = settings(protocol="http", **params).payload
    assert payload.split(b"\r\n")[:2] == lines
    assert payload.endswith(b"Connection: close\r\n\r\n")


def test_weights_may_be_shares_or_texts() -> None:
    assert settings(expected={"a": 0.25, "b": "3", 7: 1}).expected == {"a": 0.25, "b": 3.0, "7": 1.0}


# --- Answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "identify", "name"),
    [
        ("web1 192.0.2.1\n", None, "web1"),
        ("  web1", None, "web1"),
        (" \r\n", None, None),
        ("hello from web1!", r"web\d+", "web1"),
        ("name=web1; id=7", r"name=(\w+)", "web1"),
        ("one\nname web1\n", r"^name (\w+)$", "web1"),
        ("web1", r"(x)?web1", None),
        ("web1", r"app\d", None),
        ("web1", r"x*", None),
    ],
)
def test_identity(answer: str, identify: str, name: str) -> None:
    assert probe_answer.identity(answer, settings(identify=identify).identify) == name


PAGE = b"HTTP/1.1 200 OK\r\nX-Backend: web7\r\nContent-Length: 9\r\n\r\nweb1 here"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nweb1 \r\n4\r\nhere\r\n0\r\n\r\n"
TO_THE_END = b"HTTP/1.0 200 OK\r\n\r\nweb1 here"
HUGE = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\nweb1 " + b"x" * probe_answer.MAX_ANSWER


@pytest.mark.parametrize(
    ("protocol", "data", "ended", "identify", "name"),
    [
        ("tcp", b"web1 192.0.2.1\n", False, None, "web1"),
        ("tcp", b"web1 192", False, None, None),
        ("tcp", b"web1", True, None, "web1"),
        ("tcp", b"banner\nname=we", False, "name=(.+)", None),
        ("tcp", b"banner\nname=web1\nmore", False, "name=(.+)", "web1"),
        ("tcp", b"w\xff1\n", False, None, "w\ufffd1"),
        ("tcp", b"a\x1b[31mb\n", False, None, "'a\\x1b[31mb'"),
        ("udp", b"web1", False, None, "web1"),
        ("http", PAGE, False, None, "web1"),
        ("http", PAGE[:-1], False, None, None),
        ("http", PAGE, False, r"X-Backend: (\S+)", "web7"),
        ("http", PAGE, False, r"web\d", "web1"),
        ("http", PAGE[:30], False, None, None),
        ("http", CHUNKED, False, None, "web1"),
        ("http", CHUNKED[:-8], False, None, None),
        ("http", TO_THE_END, True, None, "web1"),
        ("http", TO_THE_END, False, None, None),
        ("http", HUGE[: probe_answer.MAX_ANSWER], False, None, "web1"),
    ],
)
def test_who_answered(protocol: str, data: bytes, ended: bool, identify: str, name: str) -> None:
    assert probe_answer.responder(data, ended, settings(protocol=protocol, identify=identify)) == name


def test_no_part_of_an_http_answer_is_taken_for_the_whole() -> None:
    last_chunk = b"0\r\n\r\n"
    for data in (PAGE, CHUNKED[: -len(last_chunk) + 1]):
        for end in range(len(data)):
            assert probe_answer.responder(data[:end], False, settings(protocol="http")) is None, data[:end]


@pytest.mark.parametrize(
    ("protocol", "data", "ended", "params", "message"),
    [
        ("tcp", b"", True, {}, "answer: is empty"),
        ("tcp", b"\n", True, {}, "answer: is empty"),
        ("tcp", b"nobody\n", True, {"identify": "web"}, "answer: identify does not match 'nobody\\n'"),
        ("udp", b"", False, {}, "answer: is empty"),
        ("udp", b"nobody", False, {"identify": "web"}, "answer: identify does not match 'nobody'"),
        ("http", b"SSH-2.0-OpenSSH\r\n", False, {}, "answer: is not HTTP"),
        ("http", b"", True, {}, "answer: is not HTTP"),
        ("http", b"HTTP/1.1 abc\r\n\r\n", False, {}, "answer: is not HTTP"),
        ("http", PAGE[:-1], True, {}, "answer: was cut short"),
        ("http", b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", False, {}, "answer: HTTP status 503"),
        ("http", PAGE, False, {"status": [204]}, "answer: HTTP status 200"),
        ("http", b"HTTP/1.1 204 No\r\n\r\n", False, {}, "answer: is empty"),
        ("http", PAGE, False, {"identify": "app"}, "answer: identify does not match 'web1 here'"),
    ],
)
def test_answers_that_name_nobody(protocol: str, data: bytes, ended: bool, params: dict, message: str) -> None:
    with pytest.raises(NatlbError) as caught:
        probe_answer.responder(data, ended, settings(protocol=protocol, **params))
    assert str(caught.value) == message


# --- Source ports ----------------------------------------------------------------------------------------------------


def test_every_port_comes_once_in_a_round() -> None:
    ports = list(range(40000, 40010))
    assert sorted(itertools.islice(connections.port_cycle(ports, 1234.5), 10)) == ports


def test_a_run_soon_after_another_takes_other_ports() -> None:
    ports = list(range(32768, 61000))
    first = set(itertools.islice(connections.port_cycle(ports, 1000.0), 300))
    for later_s in (1, 5, 20, 40, 59):
        assert not first & set(itertools.islice(connections.port_cycle(ports, 1000.0 + later_s), 300))


# --- Whole runs ------------------------------------------------------------------------------------------------------

Handler = Callable[[socket.socket], None]


class Server:
    """Answers on a loopback address and keeps the source port of every connection."""

    def __init__(self, sock: socket.socket, handler: Handler) -> None:
        self.sock = sock
        self.handler = handler
        self.peers: list[int] = []
        self.port = sock.getsockname()[1]

    def serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, peer = self.sock.accept()
                self.peers.append(peer[1])
                threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            self.handler(connection)

    def serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, peer = self.sock.recvfrom(2048)
                if peer is None:
                    return
                self.peers.append(peer[1])
                if data != b"drop":
                    self.sock.sendto(b"udp1 " + data, peer)


def say_nothing(_connection: socket.socket) -> None:
    return


@contextlib.contextmanager
def served(handler: Handler = say_nothing, udp: bool = False, address: str = "127.0.0.1") -> Iterator[Server]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
        sock.bind((address, 0))
        if not udp:
            sock.listen(128)
        server = Server(sock, handler)
        threading.Thread(target=server.serve_udp if udp else server.serve_tcp, daemon=True).start()
        yield server
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def round_robin(*names: str, ending: str = "\n") -> Handler:
    turn = itertools.cycle(names)
    lock = threading.Lock()

    def answer(connection: socket.socket) -> None:
        with lock:
            name = next(turn)
        connection.sendall(f"{name} says hello{ending}".encode())

    return answer


def http_answer(connection: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(4096)
    body = b"web1 " + request.split(b"\r\n")[0]
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    connection.sendall(body)
    # Stays open: the length alone tells that the answer is complete.
    connection.recv(1)


def probed(server_port: int, address: str = "127.0.0.1", **params: Any) -> connections.Outcome:
    target = f"[{address}]:{server_port}" if ":" in address else f"{address}:{server_port}"
    return connections.run(settings(target=target, **params))


def test_counts_are_exact_and_every_source_port_is_new() -> None:
    with served(round_robin("web1", "web2", "web3")) as server:
        outcome = probed(server.port, connections=90, expected={"web1": 1, "web2": 1, "web3": 1}, tolerance=0)
    assert outcome.problems == []
    assert outcome.result["backends"] == {"web1": 30, "web2": 30, "web3": 30}
    assert (outcome.result["connections"], outcome.result["errors"]) == (90, 0)
    assert outcome.result["error_messages"] == []
    assert outcome.result["p_value"] == 1.0
    assert 0 < outcome.result["latency_ms"]["p50"] <= outcome.result["latency_ms"]["p99"] < 2000
    assert len(set(server.peers)) == 90


def test_an_uneven_spread_is_a_problem_that_names_all() -> None:
    with served(round_robin("web1", "web1", "web2")) as server:
        outcome = probed(server.port, connections=90, expected={"web1": 1, "web2": 1, "web3": 1})
    assert len(outcome.problems) == 1
    for part in (
        "web1: expected 30, seen 60",
        "web2: expected 30, seen 30",
        "web3: expected 30, seen 0",
        "limit is 0.001",
    ):
        assert part in outcome.problems[0]
    assert outcome.result["backends"]["web3"] == 0


def test_few_connections_are_warned_about() -> None:
    with served(round_robin("web1", "web2")) as server:
        outcome = probed(server.port, connections=4, expected={"web1": 1, "web2": 1})
    assert outcome.problems == []
    assert "only 2 times" in outcome.warnings[0]


def test_http() -> None:
    with served(http_answer) as server:
        outcome = probed(server.port, protocol="http", path="/who", identify=r"GET (\S+)")
    assert outcome.result["backends"] == {"/who": 12}


def test_udp_has_one_socket_per_request() -> None:
    with served(udp=True) as server:
        outcome = probed(server.port, protocol="udp", connections=200)
    assert outcome.result["backends"] == {"udp1": 200}
    assert len(set(server.peers)) == 200


def test_ipv6() -> None:
    try:
        with served(round_robin("web6"), address="::1") as server:
            outcome = probed(server.port, address="::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert outcome.result["backends"] == {"web6": 12}


def test_source_address() -> None:
    seen = []

    def answer(connection: socket.socket) -> None:
        seen.append(connection.getpeername()[0])
        connection.sendall(b"web1\n")

    with served(answer) as server:
        probed(server.port, source="127.0.0.5")
    assert set(seen) == {"127.0.0.5"}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"source": "192.0.2.77"},
            "source: 192.0.2.77 cannot be used: Cannot assign requested address (use an address of",
        ),
        ({"source": "::1"}, "target: 127.0.0.1 cannot be resolved to an IPv6 address"),
        ({"target": "nobody.invalid:80"}, "target: nobody.invalid cannot be resolved: "),
        ({"protocol": "udp", "connections": 70000}, "connections: 70000 are more than the "),
    ],
)
def test_what_the_host_cannot_do_is_said_before_anything_is_sent(params: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connections.run(settings(**params))
    assert str(caught.value).startswith(message)


def hold_open(connection: socket.socket) -> None:
    connection.recv(1)


@pytest.mark.parametrize(
    ("handler", "params", "message"),
    [
        (hold_open, {"timeout": "200ms"}, "answer: timed out"),
        (say_nothing, {}, "answer: is empty"),
        (round_robin("app1"), {"identify": "web"}, "answer: identify does not match 'app1 says hello\\n'"),
        (round_robin("app1"), {"protocol": "http"}, "answer: is not HTTP"),
    ],
)
def test_errors_are_counted_by_message(handler: Handler, params: dict, message: str) -> None:
    with served(handler) as server:
        outcome = probed(server.port, connections=4, **params)
    assert outcome.result["error_messages"] == [{"message": message, "count": 4}]
    assert outcome.result["backends"] == {}
    assert outcome.result["latency_ms"] == {"p50": None, "p99": None}
    assert outcome.result["p_value"] is None
    assert outcome.problems[0].startswith(
        f"4 of 4 connections to 127.0.0.1:{server.port} failed (max_errors is 0): {message}"
    )


def test_a_line_that_never_ends_is_an_answer_all_the_same() -> None:
    def answer(connection: socket.socket) -> None:
        connection.sendall(b"web1 is here")
        connection.recv(1)

    with served(answer) as server:
        outcome = probed(server.port, connections=4, timeout="200ms")
    assert outcome.result["backends"] == {"web1": 4}


def test_errors_up_to_max_errors_are_no_problem() -> None:
    turn = itertools.count()

    def answer(connection: socket.socket) -> None:
        if next(turn) != 3:
            connection.sendall(b"web1\n")

    with served(answer) as server:
        outcome = probed(server.port, max_errors=1, expected={"web1": 1})
    assert (outcome.result["errors"], outcome.problems) == (1, [])


@pytest.mark.parametrize("protocol", ["tcp", "udp", "http"])
def test_a_closed_port_is_given_up_soon(protocol: str) -> None:
    with served() as server:
        port = server.port
    outcome = probed(port, protocol=protocol, connections=5000, expected={"web1": 1})
    assert outcome.result["connections"] < 20
    assert "Connection refused" in outcome.problems[0]
    assert "then gave up on the other 49" in outcome.problems[0]
    assert len(outcome.problems) == 1


def test_a_silent_udp_service_takes_no_longer_than_one_timeout() -> None:
    with served(udp=True) as server:
        outcome = probed(server.port, protocol="udp", payload="drop", connections=1000, concurrency=50, timeout="300ms")
    assert outcome.result["error_messages"][0]["message"] == "answer: timed out"
    # The fifty that wait at the same time; each that ends may let one more begin, until the last of them has ended.
    assert outcome.result["connections"] < 100


@pytest.mark.parametrize("handler", [hold_open, say_nothing, round_robin("app1"), http_answer])
def test_connecting_alone_works_with_every_server(handler: Handler) -> None:
    with served(handler) as server:
        outcome = probed(server.port, connect_only=True, connections=40)
    assert (outcome.problems, outcome.result["errors"], outcome.result["backends"]) == ([], 0, {})
    assert outcome.result["connections"] == 40
    assert outcome.result["latency_ms"]["p50"] > 0


@pytest.mark.parametrize("payload", ["drop", "hello"])
def test_datagrams_alone_need_no_answer(payload: str) -> None:
    with served(udp=True) as server:
        outcome = probed(
            server.port, protocol="udp", payload=payload, connect_only=True, connections=40, concurrency=40
        )
    assert (outcome.problems, outcome.result["connections"], outcome.result["errors"]) == ([], 40, 0)
    assert len(set(server.peers)) == 40


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_connecting_alone_sees_refusals(protocol: str) -> None:
    with served() as server:
        port = server.port
    outcome = probed(port, protocol=protocol, connect_only=True, connections=5000)
    assert outcome.result["connections"] < 20
    assert "Connection refused" in outcome.problems[0]


def test_many_messages_are_summed_up() -> None:
    tally = connections.Tally()
    for index in range(8):
        tally.messages[f"answer: kind {index}"] += 8 - index
    result = connections.outcome(settings(), tally).result
    assert len(result["error_messages"]) == connections.MAX_MESSAGES + 1
    assert result["error_messages"][-1] == {"message": "others", "count": 6}
    assert result["errors"] == 36
