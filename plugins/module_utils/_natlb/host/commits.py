# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Notifications about commits to nf_tables by any tool."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from .netlink import NETLINK_NETFILTER

# include/uapi/linux/netlink.h and netfilter/nfnetlink.h of the kernel.
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NFTABLES_GROUP = 7
_LARGEST = 1 << 16


class Commits:
    """A socket that can be read from once somebody has committed. What exactly changed is not looked at: a large change
    is more than the socket holds."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer

    def fileno(self) -> int:
        return self._peer.fileno()

    def drain(self) -> bool:
        """Whether there was any news. All of it is read."""
        found = False
        while True:
            try:
                found |= bool(self._peer.recv(_LARGEST))
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = True


@contextlib.contextmanager
def followed() -> Iterator[Commits]:
    """News of this network namespace from now on. Raises `OSError` where the kernel has no nf_tables."""
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)) as peer:
        peer.setblocking(False)
        peer.bind((0, 0))
        peer.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
        yield Commits(peer)
