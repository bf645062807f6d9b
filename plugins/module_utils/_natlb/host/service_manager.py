# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service tells systemd: that it is ready and alive (sd_notify(3)), and lines for the journal with fields (the
native protocol of systemd-journald). Without systemd lines go to standard error."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Mapping

_JOURNAL = "/run/systemd/journal/socket"
#: syslog(3). What is said with DEBUG is for who follows the agent, and not for the journal.
WARNING, NOTICE, INFO, DEBUG = 4, 5, 6, 7

#: There where systemd runs (sd_booted(3)).
_BOOTED = "/run/systemd/system"


def says_how() -> str:
    """Where to look for what ails the agent."""
    if os.path.isdir(_BOOTED):
        return "`systemctl status natlb-agent` says how it is"
    return "its supervisor has to run `python3 -I -OO /etc/natlb/current/natlb agent`, and has what it says"


def notify(**values: str) -> None:
    """Send `READY="1"`, `STATUS="…"` and the like. Nothing happens where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        _send("\0" + address[1:] if address.startswith("@") else address, _lines(values))


def watchdog_s() -> float | None:
    """After how many seconds of silence systemd restarts this service; None where it does not watch."""
    try:
        mine = int(os.environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
        return int(os.environ["WATCHDOG_USEC"]) / 1e6 if mine else None
    except (KeyError, ValueError):
        return None


def say(message: str, priority: int = INFO, **fields: str) -> None:
    """A line for people, and fields for programs, whose names are in capitals."""
    if priority >= DEBUG:
        return
    if "JOURNAL_STREAM" in os.environ:
        values = {"MESSAGE": message, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "natlb", **fields}
        if _send(_JOURNAL, _lines(values)):
            return
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def _lines(values: Mapping[str, str]) -> bytes:
    """A value is one line."""
    return "".join(f"{name}={' '.join(value.split())}\n" for name, value in values.items()).encode()


def _send(address: str, data: bytes) -> bool:
    try:
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)) as peer:
            peer.sendto(data, address)
    except OSError:
        return False
    return True
