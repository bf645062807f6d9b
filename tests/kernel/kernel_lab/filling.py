# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection tracking table that is full.

The limit is that of the whole machine and not to be touched by a test. But every network namespace has its own table,
and its entries are compared with that limit. So the table is filled: it takes as many entries as the machine allows.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from _natlb.host.flows import ADDRESSES
from _natlb.host.netlink import NESTED, NETLINK_NETFILTER, attribute

_NEW, _ONLY_NEW = 1 << 8, 0x400 | 0x200
#: Entries that were answered and confirmed: the kernel drops none of these to make room.
_STATUS = struct.pack("!I", 1 << 1 | 1 << 2 | 1 << 3)
_UDP = 17
_SERVER = bytes([203, 0, 113, 1])
_AT_ONCE = 200
_LIFETIME_S = 3600


def fill(beyond: int = 16) -> int:
    """Put entries into the table of this network namespace until it has more than it may. Returns how many."""
    count = int(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text()) + beyond
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as peer:
        for start in range(0, count, _AT_ONCE):
            peer.sendto(b"".join(map(_entry, range(start, min(start + _AT_ONCE, count)))), (0, 0))
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


def _entry(number: int) -> bytes:
    """One connection that nobody has opened, each from another address and port."""
    client, port = struct.pack("!I", 0xCB007200 + number // 60000), struct.pack("!H", 1024 + number % 60000)
    there = _tuple(1, client, _SERVER, port, b"\0\t")
    back = _tuple(2, _SERVER, client, b"\0\t", port)
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + there + back
    body += attribute(3, _STATUS) + attribute(7, struct.pack("!I", _LIFETIME_S))
    return struct.pack("=IHHII", 16 + len(body), _NEW, 1 | _ONLY_NEW, 1, 0) + body


def _tuple(kind: int, source: bytes, target: bytes, from_port: bytes, to_port: bytes) -> bytes:
    from_kind, to_kind = ADDRESSES["ip"]
    addresses = attribute(from_kind, source) + attribute(to_kind, target)
    ports = attribute(1, bytes([_UDP])) + attribute(2, from_port) + attribute(3, to_port)
    return attribute(kind | NESTED, attribute(1 | NESTED, addresses) + attribute(2 | NESTED, ports))
