# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where and when a run looks at the kernel: which boot, which network namespace, and which generation of its rules."""

from __future__ import annotations

import socket
import sys
from typing import NamedTuple

from . import nf_tables, proc

#: asm-generic/socket.h of the kernel, since Linux 5.14.
_SO_NETNS_COOKIE = 71
_MOST = 1 << 32


class Revision(NamedTuple):
    """The same moment: nobody has committed anything to nf_tables in between, and nobody could have.

    `namespace` is a number that the kernel gives no second network namespace until it boots again; `generation` is None
    where it has no nf_tables.
    """

    boot: str
    namespace: int
    generation: int | None

    def after(self, commits: int) -> Revision:
        """The moment after so many commits. The kernel counts in 32 bits, and leaves 0 out (nf_tables_commit)."""
        if self.generation is None:
            return self
        number = self.generation + commits
        return self._replace(generation=number if number < _MOST else number % _MOST + 1)


def current() -> Revision | None:
    """None where the kernel cannot tell namespaces apart."""
    boot = proc.read_unobserved("/proc/sys/kernel/random/boot_id").strip()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked:
            cookie = asked.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError:
        return None
    return Revision(boot, int.from_bytes(cookie, sys.byteorder), nf_tables.generation()) if boot else None
