# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Protocols with more than one connection, as little of them as a helper of the kernel reads: FTP (RFC 959 and 2428),
TFTP (RFC 1350) and SIP (RFC 3261). Servers and clients; every function is bounded in time.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from typing import NamedTuple

from . import traffic

FTP_PORT, TFTP_PORT, SIP_PORT = 2121, 6969, 5060
#: For what will happen.
TIMEOUT_S = 30.0
_serving: list[tuple[socket.socket, threading.Thread]] = []


class Fetched(NamedTuple):
    """Who answered on the first connection and on the second one, and by which address the client knew the second."""

    control: str
    data: str
    address: str


def start(name: str, address: str) -> None:
    """All servers of a backend, until `stop`. `address` is the one that answers come from."""
    ftp, tftp, sip = (
        _bound(port, kind)
        for port, kind in (
            (FTP_PORT, socket.SOCK_STREAM),
            (TFTP_PORT, socket.SOCK_DGRAM),
            (SIP_PORT, socket.SOCK_DGRAM),
        )
    )
    ftp.listen()
    _loop(ftp, lambda: _ftp(ftp.accept()[0], name))
    _loop(tftp, lambda: _tftp(tftp, name, address))
    _loop(sip, lambda: _sip(sip))


def stop() -> None:
    while _serving:
        sock, thread = _serving.pop()
        # This ends what waits there; closing it does not.
        if sock.type == socket.SOCK_STREAM:
            sock.shutdown(socket.SHUT_RDWR)
        else:
            _wake(sock)
        # One more round with a client that has gone takes two of these.
        thread.join(2 * TIMEOUT_S)
        sock.close()


def _bound(port: int, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    return sock


def _wake(sock: socket.socket) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        other.sendto(b"", ("::1", sock.getsockname()[1]))


def _loop(sock: socket.socket, serve: Callable[[], bool]) -> None:
    def run() -> None:
        going = True
        while going:
            try:
                going = serve()
            except (TimeoutError, ConnectionError):
                continue
            except OSError:
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    _serving.append((sock, thread))


def _plain(address: str) -> str:
    return address.removeprefix("::ffff:")


# -- FTP ---------------------------------------------------------------------------------------------------------------


def _ftp(control: socket.socket, name: str) -> bool:
    """One client: it says who it is, and asks for one connection more, on which it is told who answers."""
    with control, control.makefile("rw", newline="\r\n") as lines:
        control.settimeout(TIMEOUT_S)
        _say(lines, f"220 {name}")
        lines.readline()
        _say(lines, "230 welcome")
        command = lines.readline().strip()
        if command in ("PASV", "EPSV"):
            with _listening(control) as waiting:
                host, port = _plain(waiting.getsockname()[0]), waiting.getsockname()[1]
                told = f"227 at ({_numbers(host, port)})" if command == "PASV" else f"229 at (|||{port}|)"
                _say(lines, told)
                data = waiting.accept()[0]
        else:
            host, port = _address_of(command)
            _say(lines, "200 so be it")
            # From any port: 20 would need to be free again for each client.
            data = socket.create_connection((host, port), TIMEOUT_S, (_plain(control.getsockname()[0]), 0))
        with data:
            data.sendall(name.encode())
    return True


def _listening(control: socket.socket) -> socket.socket:
    """At the address that this end of the first connection has."""
    sock = socket.socket(control.family)
    sock.settimeout(TIMEOUT_S)
    sock.bind((control.getsockname()[0], 0))
    sock.listen()
    return sock


def fetch(target: str, command: str) -> Fetched:
    """Be a client of FTP: with PASV or EPSV it connects to the server, with PORT or EPRT the server does to it."""
    control = traffic.connected(target, timeout_s=TIMEOUT_S)
    with control, control.makefile("rw", newline="\r\n") as lines:
        name = lines.readline().split()[1]
        _say(lines, "USER me")
        lines.readline()
        if command in ("PASV", "EPSV"):
            _say(lines, command)
            host, port = _address_of(lines.readline())
            host = host or control.getpeername()[0]
            with socket.create_connection((host, port), TIMEOUT_S) as data:
                return Fetched(name, data.recv(99).decode(), host)
        with _listening(control) as waiting:
            host, port = waiting.getsockname()[:2]
            kind = 2 if ":" in host else 1
            _say(lines, f"PORT {_numbers(host, port)}" if command == "PORT" else f"EPRT |{kind}|{host}|{port}|")
            lines.readline()
            data, peer = waiting.accept()
            with data:
                data.settimeout(TIMEOUT_S)
                return Fetched(name, data.recv(99).decode(), peer[0])


def _say(lines: object, text: str) -> None:
    lines.write(f"{text}\r\n")  # type: ignore[attr-defined]
    lines.flush()  # type: ignore[attr-defined]


def _numbers(host: str, port: int) -> str:
    return ",".join([*host.split("."), str(port >> 8), str(port & 255)])


def _address_of(text: str) -> tuple[str, int]:
    """Of `1,2,3,4,5,6`, of `|1|1.2.3.4|567|`, and of `|||567|`, which has no host."""
    found = re.search(r"(\d+,\d+,\d+,\d+),(\d+),(\d+)", text)
    if found:
        return found[1].replace(",", "."), int(found[2]) * 256 + int(found[3])
    found = re.search(r"\|\d?\|([^|]*)\|(\d+)\|", text)
    if not found:
        raise ConnectionError(f"no address in {text!r}")
    return found[1], int(found[2])


# -- TFTP and SIP ------------------------------------------------------------------------------------------------------


def _tftp(waiting: socket.socket, name: str, address: str) -> bool:
    """The answer comes from a port of its own."""
    request, peer = waiting.recvfrom(512)
    if not request:
        return False
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as data:
        data.bind((address if ":" in address else f"::ffff:{address}", 0))
        data.sendto(b"\0\3\0\1" + name.encode(), peer)
    return True


def read_file(target: str, timeout_s: float = TIMEOUT_S) -> tuple[str, str, int]:
    """Be a client of TFTP. Returns who answered, and from which address and port."""
    host, _colon, port = target.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout_s)
        sock.sendto(b"\0\1file\0octet\0", (host, int(port)))
        data, peer = sock.recvfrom(512)
        return data[4:].decode(), peer[0], peer[1]


def _sip(waiting: socket.socket) -> bool:
    """The answer has the request in it, as it came, in a form that no helper reads."""
    request, peer = waiting.recvfrom(2048)
    if request:
        waiting.sendto(request.hex().encode(), peer)
    return bool(request)


def options(target: str, source: str) -> str:
    """Ask a server of SIP for its options. Returns the request as it has arrived there."""
    host, _colon, port = target.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.bind((source, 0))
        lines = [
            f"OPTIONS sip:web@{target} SIP/2.0",
            f"Via: SIP/2.0/UDP {source}:{sock.getsockname()[1]};branch=z9hG4bK1",
            f"From: <sip:me@{source}>;tag=1",
            f"To: <sip:web@{target}>",
            "Call-ID: 1",
            "CSeq: 1 OPTIONS",
            "Content-Length: 0",
        ]
        sock.sendto("\r\n".join([*lines, "", ""]).encode(), (host, int(port)))
        return bytes.fromhex(sock.recv(4096).decode()).decode()
