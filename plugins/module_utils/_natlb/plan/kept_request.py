# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells a process that stays whether the request that a run has kept is another one by now."""

from __future__ import annotations

import hashlib

from ..host import store
from ..host.store import Paths


class KeptRequest:
    """The request that a run has kept on the host: whether it is another one by now."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._stamp: tuple[int, int, int] | None = None
        self._digest = b""

    def read(self) -> None:
        self._stamp, self._digest = self._read()

    def is_same(self) -> bool:
        """A file that was written anew may say the same."""
        if self._stamp is not None and self._status() == self._stamp:
            return True
        stamp, digest = self._read()
        if digest != self._digest:
            return False
        self._stamp = stamp
        return True

    def _read(self) -> tuple[tuple[int, int, int] | None, bytes]:
        stamp, path = self._status(), store.state_path(self._paths)
        text = store.read_text(path) if path else None
        return stamp, hashlib.blake2b((text or "").encode()).digest()

    def _status(self) -> tuple[int, int, int] | None:
        path = store.state_path(self._paths)
        return store.stamp(path) if path is not None else None
