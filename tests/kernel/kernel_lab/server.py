# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on a backend: servers that say who answered and whom they saw.

Each answer is one line, `NAME PEER PEER_PORT LOCAL LOCAL_PORT`. TCP says it as soon as a connection is accepted, and
again for every message that comes in; UDP answers each datagram with it, from the address it was sent to.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import selectors
import socket
import struct
import threading
from collections.abc import Iterable

BACKLOG = 4096
#: Bytes of one message at most: each is answered.
CHUNK = 4096
# linux/in6.h; the constants are missing in Python.
IPV6_RECVPKTINFO, IPV6_PKTINFO = 49, 50

_servers: list[Server] = []


def start(name: str, ports: Iterable[int], protocols: Iterable[str] = ("tcp", "udp")) -> None:
    """Serve on all addresses of this host, until `stop`. Returns when the ports are open."""
    _servers.append(Server(name, tuple(ports), tuple(protocols)))


def stop() -> None:
    while _servers:
        _servers.pop().close()


def crash() -> None:
    """Stop as a process does that dies in the middle of its work: each connection ends with a RST."""
    for server in _servers:
        server.abandon()
    stop()


def announce() -> None:
    """Say it on every connection without being asked."""
    for server in _servers:
        server.announce()


class Server:
    """One thread with all sockets."""

    def __init__(self, name: str, ports: tuple[int, ...], protocols: tuple[str, ...]) -> None:
        self.name = name
        #: What is said on each connection.
        self._lines: dict[socket.socket, bytes] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, woken = os.pipe()
        self._selector.register(woken, selectors.EVENT_READ, None)
        for port in ports:
            for protocol in protocols:
                listening = _listening(protocol, port)
                handler = self._accept if protocol == "tcp" else self._datagram
                self._selector.register(listening, selectors.EVENT_READ, handler)
        self._thread = threading.Thread(target=self._serve, daemon=True, name=f"server {name}")
        self._thread.start()

    def close(self) -> None:
        os.close(self._wake)
        self._thread.join()

    def abandon(self) -> None:
        """Let the end of each connection be a RST."""
        for key in list(self._selector.get_map().values()):
            sock = key.fileobj
            if isinstance(sock, socket.socket) and sock.type == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def announce(self) -> None:
        for sock, line in list(self._lines.items()):
            # One that is just ending is no longer asked about.
            with contextlib.suppress(OSError):
                sock.sendall(line)

    def _serve(self) -> None:
        while True:
            for key, _events in self._selector.select():
                if key.data is None:
                    self._close_all()
                    return
                try:
                    key.data(key.fileobj)
                except OSError:
                    # The peer went away in the middle; listening sockets do not fail like this.
                    self._drop(key.fileobj)

    def _close_all(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
            else:
                key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _drop(self, sock: socket.socket) -> None:
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0:
            self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        self._lines.pop(sock, None)
        self._selector.unregister(sock)
        sock.close()

    def _accept(self, listening: socket.socket) -> None:
        sock, peer = listening.accept()
        try:
            local = sock.getsockname()
            line = f"{self.name} {_plain(peer[0])} {peer[1]} {_plain(local[0])} {local[1]}\n".encode()
            # First: a connection that somebody has heard of is among those that `abandon` finds.
            self._selector.register(sock, selectors.EVENT_READ, lambda _sock: self._message(sock, line))
            self._lines[sock] = line
            sock.sendall(line)
        except OSError:
            if sock in self._selector.get_map():
                self._forget(sock)
            sock.close()

    def _message(self, sock: socket.socket, line: bytes) -> None:
        if sock.recv(CHUNK):
            sock.sendall(line)
        else:
            self._forget(sock)

    def _datagram(self, sock: socket.socket) -> None:
        _data, control, _flags, peer = sock.recvmsg(4096, 256)
        packed = next(data[:16] for _level, kind, data in control if kind == IPV6_PKTINFO)
        local = _plain(str(ipaddress.IPv6Address(packed)))
        line = f"{self.name} {_plain(peer[0])} {peer[1]} {local} {sock.getsockname()[1]}\n".encode()
        # The source address as it was, the interface left to the routing table.
        source = (socket.IPPROTO_IPV6, IPV6_PKTINFO, packed + struct.pack("i", 0))
        sock.sendmsg([line], [source], 0, peer)


def _plain(address: str) -> str:
    mapped = ipaddress.IPv6Address(address).ipv4_mapped
    return str(mapped or ipaddress.IPv6Address(address))


def _listening(protocol: str, port: int) -> socket.socket:
    """A socket for both families."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    if protocol == "tcp":
        sock.listen(BACKLOG)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    return sock
