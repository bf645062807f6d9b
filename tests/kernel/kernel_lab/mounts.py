# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders mounted as real hosts mount them. Debian and Ubuntu mount /run with noexec, nosuid and nodev."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x20000
# linux/mount.h
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def new_namespace() -> None:
    """Give this process mounts of its own; nobody else sees what it mounts from now on."""
    _succeed(_libc.unshare(CLONE_NEWNS))
    _mount("/", MS_REC | MS_PRIVATE)


def forbid_execution(path: str) -> None:
    """From now on nothing below `path` can be executed, nor be a device, nor change its user."""
    if not os.statvfs(path).f_flag & os.ST_NOEXEC:
        _mount(path, MS_BIND)
        _mount(path, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _mount(path: str, flags: int) -> None:
    name = path.encode()
    _succeed(_libc.mount(name, name, None, ctypes.c_ulong(flags), None))


def _succeed(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
