# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Notifications about commits to nf_tables by any tool."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator

from . import netlink
from .netlink import NETLINK_NETFILTER, attributes

# include/uapi/linux/netlink.h and netfilter/nfnetlink.h of the kernel.
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NFTABLES_GROUP = 7
_LARGEST = 1 << 16
_NEW_GENERATION = netlink.NF_TABLES << 8 | 15
_PROCESS, _PROCESS_NAME = 2, 3


class Commits:
    """A socket that can be read from once somebody has committed. What exactly changed is not looked at: a large change
    is more than the socket holds."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        #: Whose commits `drain` has read last, such as `nft (process 4711)`; more may have been lost.
        self.by: list[str] = []

    def fileno(self) -> int:
        return self._peer.fileno()

    def drain(self) -> bool:
        """Whether there was any news. All of it is read."""
        found = False
        self.by = []
        while True:
            try:
                data = self._peer.recv(_LARGEST)
                found |= bool(data)
                self.by += [who for who in committers(data) if who not in self.by]
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True


def committers(data: bytes) -> Iterator[str]:
    """Who ended a commit with one of these messages; Linux 4.13 and later tell."""
    for kind, body in netlink.messages(data):
        if kind == _NEW_GENERATION:
            said = attributes(body[4:])
            name = said.get(_PROCESS_NAME, b"").rstrip(b"\0").decode(errors="backslashreplace")
            if name and _PROCESS in said:
                yield f"{name} (process {struct.unpack('>I', said[_PROCESS])[0]})"


@contextlib.contextmanager
def followed() -> Iterator[Commits]:
    """News of this network namespace from now on. Raises `OSError` where the kernel has no nf_tables."""
    with contextlib.closing(joined()) as peer:
        yield Commits(peer)


def joined() -> socket.socket:
    """A socket that is told of each change from now on, and waits for none. Raises `OSError`."""
    peer = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    try:
        peer.setblocking(False)
        peer.bind((0, 0))
        peer.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
    except OSError:
        peer.close()
        raise
    return peer
