# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sockets at a path, by which processes of this host talk to each other. Only root may open them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

#: Whoever listens need not accept for that, so it takes no time at all.
_SERVED_WITHIN_S = 1.0


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Another name of a path: that of a socket has to be shorter than 108 bytes (unix(7))."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listening(path: Path) -> socket.socket:
    """A socket at this path, instead of what was there. It does not block. Raises `OSError`."""
    path.unlink(missing_ok=True)
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with _short(path) as name:
            peer.bind(name)
        path.chmod(0o600)
        peer.listen()
    except BaseException:
        peer.close()
        raise
    return peer


def connected(path: Path, timeout_s: float) -> socket.socket:
    """A connection to whoever listens at this path. Raises `OSError`."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    peer.settimeout(timeout_s)
    try:
        with _short(path) as name:
            peer.connect(name)
    except BaseException:
        peer.close()
        raise
    return peer


def is_served(path: Path) -> bool:
    """Whether somebody listens at this path. What a dead process has left there refuses."""
    try:
        connected(path, _SERVED_WITHIN_S).close()
    except OSError:
        return False
    return True
