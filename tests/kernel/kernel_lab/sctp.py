# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SCTP without the kernel's sockets: an INIT chunk (RFC 9260, section 3.3.2) sent and seen through raw sockets."""

from __future__ import annotations

import select
import socket
import struct
import time
from typing import NamedTuple

PROTOCOL = 132
TIMEOUT_S = 3.0


class Seen(NamedTuple):
    """An SCTP packet as it arrived."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    checksum_right: bool


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), as RFC 9260 appendix A asks for."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _unused in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def init_packet(source_port: int, destination_port: int) -> bytes:
    """An association's first packet: verification tag 0, one INIT chunk."""
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, 0x4E41544C, 65536, 1, 1, 1)
    ports = struct.pack("!HHI", source_port, destination_port, 0)
    checksum = crc32c(ports + bytes(4) + chunk)
    return ports + struct.pack("<I", checksum) + chunk


def send(target: str, source_port: int) -> None:
    host, _colon, port = target.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL) as sock:
        sock.sendto(init_packet(source_port, int(port)), (host, 0))


_listening: list[socket.socket] = []


def listen() -> None:
    """Begin to collect SCTP packets on this host."""
    _listening.append(socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL))


def received(timeout_s: float = TIMEOUT_S) -> Seen | None:
    """The next packet that came in since `listen`, or None."""
    sock, deadline = _listening[-1], time.monotonic() + timeout_s
    ready, _unused, _unused = select.select([sock], [], [], max(0.0, deadline - time.monotonic()))
    if not ready:
        return None
    packet = sock.recv(4096)
    payload = packet[(packet[0] & 15) * 4 :]
    source_port, destination_port = struct.unpack("!HH", payload[:4])
    blank = payload[:8] + bytes(4) + payload[12:]
    right = payload[8:12] == struct.pack("<I", crc32c(blank))
    source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    return Seen(source, destination, source_port, destination_port, right)


def close() -> None:
    while _listening:
        _listening.pop().close()
