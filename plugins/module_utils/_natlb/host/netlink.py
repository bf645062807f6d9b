# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink messages to the subsystems of nfnetlink, and their answers, without another program."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

# include/uapi/linux/netlink.h, netfilter/nfnetlink.h and netfilter/nf_tables.h of the kernel.
NETLINK_NETFILTER = 12
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 1, 0x10, 0x300
ACKNOWLEDGE = 4
CREATE, APPEND = 0x400, 0x800
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
CONNTRACK, NF_TABLES = 1, 10
NESTED = 0x8000
_BATCH_BEGIN, _BATCH_END = 16, 17
_BATCH_GENERATION = 1
#: asm-generic/socket.h. The second one also goes beyond the limit for users, with CAP_NET_ADMIN.
_SO_SNDBUF, _SO_SNDBUFFORCE = 7, 32
#: A part of a list is no larger.
_LARGEST = 1 << 18


class Message(NamedTuple):
    """One of a transaction. `body` are its attributes, `family` is an address family of netfilter."""

    kind: int
    family: int
    body: bytes
    flags: int = 0


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *inner: bytes) -> bytes:
    """An attribute that consists of attributes."""
    return attribute(kind | NESTED, b"".join(inner))


def text(kind: int, value: str) -> bytes:
    """An attribute that is a name."""
    return attribute(kind, value.encode() + b"\0")


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


def _message(kind: int, family: int, body: bytes, flags: int, resource: int = 0) -> bytes:
    body = struct.pack("=BB", family, 0) + struct.pack(">H", resource) + body
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body


def _message_acknowledged(message: bytes) -> bytes:
    length, kind, flags, number, port = _HEADER.unpack_from(message)
    return _HEADER.pack(length, kind, flags | ACKNOWLEDGE, number, port) + message[_HEADER.size :]


def _errors(data: bytes) -> Iterator[int]:
    """What the kernel says of messages: their errors, 0 where one was well."""
    for kind, content in messages(data):
        if kind == _NLMSG_ERROR:
            yield -struct.unpack_from("=i", content)[0]


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

    def commit(self, subsystem: int, messages: Iterable[Message], generation: int) -> None:
        """Carry out messages as one transaction, on top of this generation and no other.

        Raises `OSError` with the kernel's reason where it refuses, and then nothing has changed; ERESTART says that
        somebody else has made a commit since that generation.
        """
        began = attribute(_BATCH_GENERATION, struct.pack(">I", generation))
        parts = [_message(_BATCH_BEGIN, 0, began, 0, subsystem)]
        parts += [_message(subsystem << 8 | kind, family, body, flags) for kind, family, body, flags in messages]
        # The kernel tells of errors, and of the success of whoever asks for it.
        parts[-1] = _message_acknowledged(parts[-1])
        batch = b"".join([*parts, _message(_BATCH_END, 0, b"", 0, subsystem)])
        self._make_room(2 * len(batch))
        self._peer.sendto(batch, (0, 0))
        # It has answered before that returns.
        errors = [error for data in self._arrived() for error in _errors(data)]
        failed = next((error for error in errors if error), 0 if errors else errno.ENOMSG)
        if failed:
            raise OSError(failed, os.strerror(failed))

    def _make_room(self, size: int) -> None:
        """For a message of this size."""
        if self._peer.getsockopt(socket.SOL_SOCKET, _SO_SNDBUF) < size:
            self._peer.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)

    def _arrived(self) -> Iterator[bytes]:
        while True:
            try:
                yield self._peer.recv(_LARGEST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return

    def _send(self, subsystem: int, kind: int, family: int, body: bytes, flags: int) -> None:
        self._peer.sendto(_message(subsystem << 8 | kind, family, body, flags), (0, 0))

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
