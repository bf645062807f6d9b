# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TCP segments that no socket of the kernel would send, seen and sent through raw sockets on a backend."""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from typing import NamedTuple

TIMEOUT_S = 3.0
FIN, SYN, RST, ACK = 1, 2, 4, 16
#: Beyond any window.
FAR = 1 << 30

_watching: list[socket.socket] = []


class Segment(NamedTuple):
    """A segment as it arrived."""

    peer: str
    peer_port: int
    port: int
    seq: int
    ack: int
    flags: int
    length: int


def watch(ipv6: bool = False) -> None:
    """Begin to collect the segments that come to this host."""
    _watching.append(socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))


def seen(timeout_s: float = TIMEOUT_S) -> list[Segment]:
    """What has come in since `watch` or the last call; waits for the first."""
    sock, found = _watching[-1], []
    deadline = time.monotonic() + timeout_s
    while select.select([sock], [], [], 0.0 if found else max(0.0, deadline - time.monotonic()))[0]:
        packet, address = sock.recvfrom(65536)
        if sock.family == socket.AF_INET:
            packet = packet[(packet[0] & 15) * 4 :]
        source, target, seq, ack, offset, flags = struct.unpack_from("!HHIIBB", packet)
        found.append(Segment(address[0], source, target, seq, ack, flags, len(packet) - (offset >> 4) * 4))
    return found


def unwatch() -> None:
    while _watching:
        _watching.pop().close()


def send_late(after: Segment, source: str, flags: int = ACK, payload: bytes = b"late") -> None:
    """Answer a segment with one out of the window, which acknowledges all the same what there is."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    header = struct.pack(
        "!HHIIBBHHH", after.port, after.peer_port, (after.ack + FAR) % 2**32, after.seq + after.length, 0x50, flags,
        1024, 0, 0,
    )  # fmt: skip
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        sock.bind((source, 0))
        total = _sum(source, after.peer, header + payload)
        sock.sendto(header[:16] + struct.pack("!H", total) + header[18:] + payload, (after.peer, 0))


def _sum(source: str, target: str, segment: bytes) -> int:
    """TCP's checksum, over the pseudo header of RFC 9293, section 3.1."""
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    data = ends + struct.pack("!II", socket.IPPROTO_TCP, len(segment)) + segment + bytes(len(segment) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
