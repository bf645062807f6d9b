# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink messages to the subsystems of nfnetlink, and their answers, without another program."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

# include/uapi/linux/netlink.h, netfilter/nfnetlink.h and netfilter/nf_tables.h of the kernel.
NETLINK_NETFILTER = 12
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 1, 0x10, 0x300
ACKNOWLEDGE = 4
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
CONNTRACK, NF_TABLES = 1, 10
NESTED = 0x8000
#: A part of a list is no larger.
_LARGEST = 1 << 18


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by kind."""
    return dict(listed(data))


def listed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute, without what flags the kind carries."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each message that came at once."""
    while len(data) >= _HEADER.size:
        length, kind, _flags, _number, _port = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            break
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def place(data: bytes, within: slice, *kinds: int) -> slice | None:
    """Where the value of an attribute stands, by the kinds that lead to it through nested ones; None where there is
    none."""
    for kind in kinds:
        at, found = within.start, None
        while found is None and at + 4 <= within.stop:
            length, flagged = struct.unpack_from("=HH", data, at)
            if length < 4:
                return None
            if flagged & 0x3FFF == kind:
                found = slice(at + 4, at + length)
            at += (length + 3) & ~3
        if found is None:
            return None
        within = found
    return within


class Netfilter:
    """A socket to netfilter in the network namespace of this thread."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def ask(self, subsystem: int, kind: int, family: int = 0, body: bytes = b"", flags: int = 0) -> bytes:
        """The attributes of the answer to one message; none of an acknowledgement.

        Raises `OSError` with the kernel's reason where it refuses.
        """
        self._send(subsystem, kind, family, body, flags)
        # The kernel answers before it returns.
        return next((answer for _family, answer in self._received()), b"")

    def dump(self, subsystem: int, kind: int, body: bytes = b"", family: int = 0) -> list[tuple[int, bytes]]:
        """Family and attributes of each entry of a list. Raises `OSError`."""
        while True:
            self._send(subsystem, kind, family, body, _NLM_F_DUMP)
            try:
                return list(self._received(several=True))
            except InterruptedError:
                # Something was changed meanwhile, so that entries may be missing.
                continue

    def _send(self, subsystem: int, kind: int, family: int, body: bytes, flags: int) -> None:
        body = struct.pack("=BBH", family, 0, 0) + body
        message = _HEADER.pack(_HEADER.size + len(body), subsystem << 8 | kind, _NLM_F_REQUEST | flags, 1, 0) + body
        self._peer.sendto(message, (0, 0))

    def _received(self, several: bool = False) -> Iterator[tuple[int, bytes]]:
        interrupted = False
        while True:
            data = self._peer.recv(_LARGEST)
            while data:
                length, found, flags, _number, _port = _HEADER.unpack_from(data)
                message, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                if found == _NLMSG_ERROR:
                    (error,) = struct.unpack_from("=i", message)
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    return
                if found == _NLMSG_DONE:
                    if interrupted:
                        raise InterruptedError
                    return
                yield message[0], message[4:]
            if not several:
                return


@contextlib.contextmanager
def netfilter() -> Iterator[Netfilter]:
    """A socket for a few questions. Raises `OSError` where this kernel has no netlink for netfilter."""
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)) as peer:
        yield Netfilter(peer)
