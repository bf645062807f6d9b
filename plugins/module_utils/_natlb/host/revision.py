# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of the rules of nf_tables: the boot, the network namespace, and the generation of the rules."""

from __future__ import annotations

import socket
import sys
from typing import NamedTuple

from . import nf_tables, proc

#: asm-generic/socket.h of the kernel, since Linux 5.14.
_SO_NETNS_COOKIE = 71
_MOST = 1 << 32


class Revision(NamedTuple):
    """Two equal revisions: there was no commit to nf_tables in between, and there cannot have been one.

    `namespace` is a cookie that the kernel gives to no second network namespace until the next boot. `generation` is
    None if it has no nf_tables.
    """

    boot: str
    namespace: int
    generation: int | None

    def after(self, commits: int) -> Revision:
        """The revision after so many commits."""
        if self.generation is None:
            return self
        return self._replace(generation=later(self.generation, commits))


def later(generation: int, commits: int) -> int:
    """The generation after so many commits. The kernel counts in 32 bits, and skips 0 (nf_tables_commit)."""
    number = generation + commits
    return number if number < _MOST else number % _MOST + 1


def current() -> Revision | None:
    """The current revision; None if the kernel cannot identify network namespaces."""
    boot = proc.read_unobserved("/proc/sys/kernel/random/boot_id").strip()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked:
            cookie = asked.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return None
    return Revision(boot, int.from_bytes(cookie, sys.byteorder), nf_tables.generation()) if boot else None
