# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink, as far as netfilter is asked without a program: messages to subsystems of nfnetlink, and their answers."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

# include/uapi/linux/netlink.h, netfilter/nfnetlink.h and netfilter/nf_tables.h of the kernel.
_NETLINK_NETFILTER = 12
_NLM_F_REQUEST = 1
ACKNOWLEDGE, DUMP = 4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
CONNTRACK, NF_TABLES = 1, 10
NESTED = 0x8000
_NFT_MSG_GETGEN, _NFTA_GEN_ID = 16, 1
_NFT_MSG_GETSET, _NFTA_SET_TABLE = 10, 1
FAMILIES = {"ip": socket.AF_INET, "ip6": socket.AF_INET6}


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by kind, without what flags the kind carries."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


class Netfilter:
    """A socket to netfilter in the network namespace of this thread."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def ask(self, subsystem: int, kind: int, family: int = 0, body: bytes = b"", flags: int = 0) -> bytes:
        """The attributes of the answer to one message: the first of several; none of an acknowledgement or an empty
        list.

        Raises `OSError` with the kernel's reason where it refuses.
        """
        flags |= _NLM_F_REQUEST
        body = struct.pack("=BBH", family, 0, 0) + body
        message = _HEADER.pack(_HEADER.size + len(body), subsystem << 8 | kind, flags, 1, 0) + body
        self._peer.sendto(message, (0, 0))
        # The kernel answers before it returns.
        answer = self._peer.recv(65536)
        length, found, _flags, _number, _port = _HEADER.unpack_from(answer)
        if found == _NLMSG_ERROR:
            (error,) = struct.unpack_from("=i", answer, _HEADER.size)
            if error:
                raise OSError(-error, os.strerror(-error))
            return b""
        return b"" if found == _NLMSG_DONE else answer[_HEADER.size + 4 : length]


@contextlib.contextmanager
def netfilter() -> Iterator[Netfilter]:
    """A socket for a few questions. Raises `OSError` where this kernel has no netlink for netfilter."""
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)) as peer:
        yield Netfilter(peer)


def generation() -> int | None:
    """The number of the last commit of nf_tables in this network namespace, whoever made it; None where it has none.

    It grows with every commit of nft and of iptables-nft. Neither a listing, nor a packet, nor iptables-legacy changes
    it.
    """
    try:
        with netfilter() as kernel:
            found = attributes(kernel.ask(NF_TABLES, _NFT_MSG_GETGEN)).get(_NFTA_GEN_ID, b"")
    except OSError:
        return None
    return int(struct.unpack(">I", found)[0]) if len(found) == 4 else None


def has_sets(family: str, table: str) -> bool:
    """Whether a table of nf_tables in this network namespace has a set or map. Of a table that is gone since: no."""
    name = attribute(_NFTA_SET_TABLE, table.encode() + b"\0")
    try:
        with netfilter() as kernel:
            return bool(kernel.ask(NF_TABLES, _NFT_MSG_GETSET, FAMILIES[family], name, DUMP))
    except OSError:
        return False
