# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets on their way through nf_tables, told by the kernel rule by rule (`nft monitor trace`)."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Callable

from ..errors import HostError
from ..packets import Family
from . import netlink, nf_tables, proc
from .processes import PATH, require

TABLE = "natlb_trace"
_CHUNK = 1 << 16
_WAIT_S, _PAUSE_S = 5.0, 0.01


class Monitor:
    """Lines of the monitor as they come."""

    def __init__(self, output: int) -> None:
        self.output = output
        self._rest = b""

    def lines(self) -> list[str]:
        """Those since the last call; none where nothing was said."""
        try:
            data = os.read(self.output, _CHUNK)
        except BlockingIOError:
            return []
        *found, self._rest = (self._rest + data).split(b"\n")
        return [line.decode("utf-8", "replace") for line in found]


@contextlib.contextmanager
def followed(match: str, family: Family) -> Iterator[Monitor]:
    """Follow the packets that `match` fits, as nft writes it, of `family` (ip or ip6). Raises `HostError`.

    The rule that asks for it is in a table of its own, which belongs to a process: the kernel takes it away when that
    process ends, however it does.
    """
    nft = require("nft", "nftables")
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority -400; {match} meta nftrace set 1; }}; "
        for hook in ("prerouting", "output")
    )
    rules = f"table {family} {TABLE} {{ flags owner; {chains}}}\n"
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(_started([nft, "-i"], stdin=subprocess.PIPE))
        monitor = stack.enter_context(_started([nft, "monitor", "trace"], stdin=subprocess.DEVNULL))
        if owner.stdin is None or monitor.stdout is None:
            raise HostError("nft: no pipe")
        owner.stdin.write(rules.encode())
        owner.stdin.flush()
        os.set_blocking(monitor.stdout.fileno(), False)
        _wait_until(lambda: (family, TABLE) in nf_tables.tables() and _listens(monitor.pid))
        yield Monitor(monitor.stdout.fileno())


def _wait_until(ready: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _WAIT_S
    while not ready():
        if time.monotonic() > give_up:
            raise HostError("nft: packets cannot be followed: the kernel tells of none (Linux 5.12 can, with nft 1.0)")
        time.sleep(_PAUSE_S)


def _listens(pid: int) -> bool:
    """Whether a process has subscribed to what netfilter tells. The monitor does not say when it is ready."""
    lines = (line.split() for line in proc.read("/proc/thread-self/net/netlink").splitlines()[1:])
    return any((int(line[1]), int(line[2])) == (netlink.NETLINK_NETFILTER, pid) and int(line[3], 16) for line in lines)


@contextlib.contextmanager
def _started(argv: list[str], stdin: int) -> Iterator[subprocess.Popen[bytes]]:
    try:
        process = subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={"PATH": PATH, "LC_ALL": "C"}
        )
    except OSError as error:
        raise HostError(f"{argv[0]}: {error.strerror}") from error
    try:
        yield process
    finally:
        process.terminate()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait(_WAIT_S)
