# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on a client: connections that are opened, asked and counted. Every function is bounded in time."""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

TIMEOUT_S = 3.0
#: linux/in.h; the constant is missing in Python.
IP_BIND_ADDRESS_NO_PORT = 24
#: Between two rounds of `hammer`: some hundred connections per second, and the balancer still gets a processor.
BREATH_S = 0.004

_open: dict[int, socket.socket] = {}
_handles = itertools.count(1)
#: Above those of the servers.
_udp_ports = itertools.cycle(range(20000, 32768))
_halt, _under_way = threading.Event(), threading.Event()


class Answer(NamedTuple):
    """Who answered and what it saw; or `error`, the name of the exception that came instead."""

    name: str = ""
    peer: str = ""
    peer_port: int = 0
    local: str = ""
    local_port: int = 0
    error: str = ""
    #: Packets that the client had to send again before it had this answer (TCP only).
    resent: int = 0
    #: Whether what ended with an error had been opened before.
    opened: bool = False
    #: The error by the kernel's name, such as EHOSTUNREACH, which has no exception of its own.
    reason: str = ""

    @property
    def who(self) -> str:
        return self.name or self.error


class Hammered(NamedTuple):
    """What `hammer` saw: connections opened, by name or error, and how the long-lived ones fared."""

    answers: Counter[str]
    kept: int
    cut: Counter[str]
    messages: int
    #: Connections of which a packet had to be sent again: one that was lost is sent again after a second.
    late: int


def ask(
    target: str,
    count: int = 1,
    *,
    protocol: str = "tcp",
    sources: Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
    first_source_port: int = 0,
    source_ports: Sequence[int] = (),
    header_options: int = 0,
) -> list[Answer]:
    """Open `count` connections one after the other, from the source addresses in turn.

    With `first_source_port` connection i comes from that port + i, so that nothing is left to chance, or with
    `source_ports` from the i-th of them. `header_options` are bytes of options in each IPv4 header: a multiple of four.
    """
    if first_source_port:
        source_ports = range(first_source_port, first_source_port + count)
    answers = []
    for i in range(count):
        source = sources[i % len(sources)] if sources else None
        port = source_ports[i] if source_ports else 0
        answers.append(_ask_once(target, protocol, source, timeout_s, port, header_options))
    return answers


def ask_each(targets: Sequence[tuple[str, str]], timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """One connection to each of these: protocol and target."""
    return [_ask_once(target, protocol, None, timeout_s, 0) for protocol, target in targets]


class Attempt(NamedTuple):
    """Who answered, or with which error it ended, and how long that took from the first SYN on."""

    answer: Answer
    waited_s: float


def attempts(target: str, count: int, rate: float, *, sources: Sequence[str] = (), timeout_s: float) -> list[Attempt]:
    """Begin so many connections a second, whatever becomes of those before."""
    began = time.monotonic()

    def attempt(number: int) -> Attempt:
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        start = time.monotonic()
        answer = _ask_once(target, "tcp", sources[number % len(sources)] if sources else None, timeout_s, 0)
        return Attempt(answer, time.monotonic() - start)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(attempt, range(count)))


def back_to_back(target: str, count: int, source: str, pause_s: float = 0.0) -> list[Answer]:
    """Connections that both ends have closed before the next begins."""
    answers = []
    for _unused in range(count):
        try:
            with connected(target, source=source) as sock:
                answers.append(_exchange(sock, speak=False))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(512):
                    pass
        except OSError as error:
            answers.append(_failed(error, getattr(error, "resent", 0)))
        time.sleep(pause_s)
    return answers


def tally(answers: Iterable[Answer]) -> Counter[str]:
    return Counter(answer.who for answer in answers)


def _ask_once(
    target: str, protocol: str, source: str | None, timeout_s: float, source_port: int, header_options: int = 0
) -> Answer:
    try:
        with connected(target, protocol, source, timeout_s, source_port, header_options) as sock:
            try:
                return _exchange(sock, speak=protocol == "udp")
            except OSError as error:
                return _failed(error, _resent(sock), opened=True)
    except OSError as error:
        # A reset of what was still opening is "refused" (tcp_reset in net/ipv4/tcp_input.c of Linux). Any other has
        # come before this thread saw the connection open.
        opened = isinstance(error, ConnectionResetError)
        return _failed(error, getattr(error, "resent", 0), opened)


def _failed(error: OSError, resent: int = 0, opened: bool = False) -> Answer:
    reason = errno.errorcode.get(error.errno or 0, "")
    return Answer(error=type(error).__name__, resent=resent, opened=opened, reason=reason)


def _exchange(sock: socket.socket, speak: bool) -> Answer:
    if speak:
        sock.send(b"?\n")
    line = sock.recv(512)
    if not line:
        return Answer(error="EOFError", resent=_resent(sock))
    name, peer, peer_port, local, local_port = line.decode().split()
    return Answer(name, peer, int(peer_port), local, int(local_port), "", _resent(sock))


def _resent(sock: socket.socket) -> int:
    """`tcpi_total_retrans` of struct tcp_info (linux/tcp.h); it outlives the connection."""
    if sock.type != socket.SOCK_STREAM:
        return 0
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0])


def connected(
    target: str,
    protocol: str = "tcp",
    source: str | None = None,
    timeout_s: float = TIMEOUT_S,
    source_port: int = 0,
    header_options: int = 0,
) -> socket.socket:
    """A connected socket; UDP too, so that ICMP errors reach it.

    Each UDP socket has a port of its own: a second one on a port that the kernel draws by chance would be the same flow
    for connection tracking, and take no turn (of 30 flows two meet in one run of 65).
    """
    if protocol == "udp" and not source_port:
        source_port = next(_udp_ports)
    host, _colon, port = target.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    try:
        sock.settimeout(timeout_s)
        if header_options:
            # Nothing but "no operation" (RFC 791).
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * header_options)
        if source or source_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The port is chosen at connect(): one that is waiting to be forgotten for another target will do.
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 0 if source_port else 1)
            sock.bind((source or ("::" if family == socket.AF_INET6 else "0.0.0.0"), source_port))
        address, _percent, link = host.partition("%")
        # A zone is a number in a tuple of four; in the text Python reads past it.
        sock.connect((address, int(port), 0, socket.if_nametoindex(link)) if link else (host, int(port)))
    except OSError as error:
        vars(error)["resent"] = _resent(sock)
        sock.close()
        raise
    return sock


def ping(target: str, timeout_s: float = TIMEOUT_S) -> str:
    """What an echo request comes to: `answered`, or the name of the error."""
    ipv6 = ":" in target
    protocol = socket.IPPROTO_ICMPV6 if ipv6 else socket.IPPROTO_ICMP
    # Type, code, checksum (which the kernel does for ICMPv6, and which is right here for ICMP), identifier, number.
    request = struct.pack("!BBHHH", 128, 0, 0, 1, 1) if ipv6 else struct.pack("!BBHHH", 8, 0, 0xF7FD, 1, 1)
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect((target, 0))
            sock.send(request)
            sock.recv(4096)
        except OSError as error:
            return type(error).__name__
    return "answered"


def hold(
    target: str,
    count: int = 1,
    *,
    protocol: str = "tcp",
    source: str | None = None,
    source_port: int = 0,
    timeout_s: float = TIMEOUT_S,
) -> list[tuple[int, Answer]]:
    """Open connections that stay open, as pairs (handle for `talk`, first answer)."""
    held = []
    for _unused in range(count):
        sock = connected(target, protocol, source, timeout_s, source_port)
        handle = next(_handles)
        _open[handle] = sock
        held.append((handle, _exchange(sock, speak=protocol == "udp")))
    return held


def hold_more(target: str, count: int, rate: float, timeout_s: float) -> list[str]:
    """Open connections that stay open, so many a second. Returns who answered each of them, in order."""
    began = time.monotonic()
    names = []
    for number in range(count):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        sock = connected(target, timeout_s=timeout_s)
        _open[next(_handles)] = sock
        names.append(_exchange(sock, speak=False).who)
    return names


def hold_at_once(target: str, count: int, timeout_s: float = TIMEOUT_S) -> Counter[str]:
    """Open so many connections at the same moment, by as many threads, and keep them. Who answered, or which error."""
    ready = threading.Barrier(count)

    def one(_number: int) -> str:
        ready.wait()
        try:
            sock = connected(target, timeout_s=timeout_s)
            _open[next(_handles)] = sock
            return _exchange(sock, speak=False).who
        except OSError as error:
            return type(error).__name__

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(one, range(count)))


def let_go(handle: int, reset: bool = False) -> None:
    """End a held connection: in order, when the other end has ended its part as well, or by a RST."""
    sock = _open.pop(handle)
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif sock.type == socket.SOCK_STREAM:
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(512):
            pass
    sock.close()


def talk(handle: int, timeout_s: float = TIMEOUT_S) -> Answer:
    """One more question on a held connection."""
    return _on_held(handle, timeout_s, speak=True)


def talk_on(handles: Sequence[int], timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """The same on many of them at the same time."""
    for handle in handles:
        # Whatever is wrong with it shows where an answer is waited for.
        with contextlib.suppress(OSError):
            _open[handle].send(b"?\n")
    return hear_on(handles, timeout_s)


def hear_on(handles: Sequence[int], timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """What many held connections bring, all of them within this time."""
    deadline = time.monotonic() + timeout_s
    return [_on_held(handle, max(0.001, deadline - time.monotonic()), speak=False) for handle in handles]


def pour(handle: int, size: int, timeout_s: float = 20.0) -> int:
    """Send so many bytes on a held connection, end this side of it, and return how many answers came until the other
    end ended its own."""
    sock = _open[handle]
    sock.settimeout(timeout_s)
    with ThreadPoolExecutor(1) as pool:
        lines = pool.submit(lambda: sum(piece.count(b"\n") for piece in iter(lambda: sock.recv(1 << 16), b"")))
        sock.sendall(bytes(size))
        sock.shutdown(socket.SHUT_WR)
        return lines.result(timeout_s)


def finish(handle: int) -> None:
    """Ask the last question on a held connection, and end this side of it."""
    _open[handle].send(b"?\n")
    _open[handle].shutdown(socket.SHUT_WR)


def hear(handle: int, timeout_s: float = TIMEOUT_S) -> Answer:
    """What a held connection brings unasked."""
    return _on_held(handle, timeout_s, speak=False)


def _on_held(handle: int, timeout_s: float, speak: bool) -> Answer:
    sock = _open[handle]
    sock.settimeout(timeout_s)
    try:
        return _exchange(sock, speak)
    except OSError as error:
        return _failed(error)


def release() -> None:
    """Cut every held connection off, so that nothing of it remains.

    One that is closed in order waits for the other end's part, which may never come where the lab is reset: and as long
    as it waits (FIN_WAIT2, 60 s), the kernel gives its port to no other connection to the same target.
    """
    while _open:
        sock = _open.popitem()[1]
        if sock.type == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()


def hammer(
    targets: Sequence[str],
    *,
    keep: int = 10,
    limit_s: float = 60.0,
    breath_s: float = BREATH_S,
    source: str | None = None,
) -> Hammered:
    """Open connections one after the other until `halt` (or the limit), while `keep` others stay open and are used.

    Call `hammering` to wait until it is under way.
    """
    # At the beginning, since several of them may have to see that they are to halt.
    _halt.clear()
    answers: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    held = [handle for target in targets for handle, _answer in hold(target, keep)]
    before = {handle: talk(handle).name for handle in held}
    deadline, messages, late = time.monotonic() + limit_s, 0, 0
    turns = itertools.cycle(held)
    _under_way.set()
    while not _halt.is_set() and time.monotonic() < deadline:
        for target in targets:
            answer = _ask_once(target, "tcp", source, TIMEOUT_S, 0)
            answers[answer.who] += 1
            late += bool(answer.resent)
        if held:
            handle = next(turns)
            answer = talk(handle)
            messages += 1
            if answer.name != before[handle]:
                cut[answer.who] += 1
        if breath_s:
            time.sleep(breath_s)
    _under_way.clear()
    release()
    return Hammered(answers, len(held), cut, messages, late)


def hammering(timeout_s: float = 10.0) -> None:
    """Wait until `hammer` is under way."""
    if not _under_way.wait(timeout_s):
        raise TimeoutError("the hammer has not begun")


def halt() -> None:
    _halt.set()
