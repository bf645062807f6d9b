# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The listeners of this host: programs, and IPVS."""

from __future__ import annotations

import bisect
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..packets import Protocol, protocol_named
from .observation import observed

#: net/tcp_states.h, as /proc prints it; an unconnected UDP socket counts as closed.
_LISTENING: dict[Protocol, str] = {"tcp": "0A", "udp": "07"}

#: Ranges of ports, ascending and apart.
Ports = tuple[tuple[int, int], ...]


class Listener(NamedTuple):
    """`by` is `a program` or `IPVS`."""

    protocol: Protocol
    address: str
    port: int
    by: str = "a program"


@observed
def listeners(ports: Ports) -> list[Listener]:
    """Every socket of this network namespace that waits for clients on one of these ports, and the virtual services of
    IPVS there."""
    lows = [low for low, _high in ports]

    def is_among(port: int) -> bool:
        at = bisect.bisect_right(lows, port) - 1
        return at >= 0 and port <= ports[at][1]

    found: list[Listener] = []
    for protocol in _LISTENING:
        for name in (protocol, f"{protocol}6"):
            found += parse_sockets(protocol, _lines(f"/proc/thread-self/net/{name}"))
    found += parse_ipvs(_lines("/proc/thread-self/net/ip_vs"))
    return [listener for listener in found if is_among(listener.port)]


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            yield from file
    except OSError:
        return


def parse_sockets(protocol: Protocol, lines: Iterable[str]) -> list[Listener]:
    """Of /proc/net/tcp and the like. Listening sockets of TCP come first there, however many connections follow."""
    found = []
    for number, line in enumerate(lines):
        fields = line.split()
        if number == 0 or len(fields) < 4:
            continue
        if fields[3] == _LISTENING[protocol]:
            address, _colon, port = fields[1].partition(":")
            found.append(Listener(protocol, _address(address), int(port, 16)))
        elif protocol == "tcp":
            break
    return found


def _address(text: str) -> str:
    """Words of 32 bits in the byte order of the machine."""
    packed = b"".join(struct.pack("=I", int(text[i : i + 8], 16)) for i in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def parse_ipvs(lines: Iterable[str]) -> list[Listener]:
    """Virtual services of /proc/net/ip_vs, but for those by mark: `TCP  C0000202:0050 rr`, IPv6 in brackets."""
    found = []
    for line in lines:
        fields = line.split()
        if len(fields) > 1 and fields[0] in ("TCP", "UDP", "SCTP") and ":" in fields[1]:
            address, _colon, port = fields[1].rpartition(":")
            if address.startswith("["):
                shown = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address.strip("[]")))
            else:
                shown = socket.inet_ntoa(struct.pack(">I", int(address, 16)))
            found.append(Listener(protocol_named(fields[0].lower()), shown, int(port, 16), "IPVS"))
    return found
