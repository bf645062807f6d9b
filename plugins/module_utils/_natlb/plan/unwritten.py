# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found and cannot be written down, as with a full /run.

A dead backend must not stay in rotation for that. So the rules follow what is here, as if it stood in its file. Others
who read the host learn of it once there is room.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..errors import HostError
from ..host import store
from ..host.store import Paths


class Unwritten:
    """Texts by file. All but `text` and `seen` are to be called with the lock held."""

    def __init__(self) -> None:
        self._texts: dict[Path, str] = {}
        #: Why they are not in their files; empty where all are.
        self.trouble = ""

    def write(self, path: Path, text: str) -> None:
        """Write a file now, or by a later `retry`."""
        self._texts[path] = text
        self.retry()

    def retry(self) -> None:
        """Write what could not be written before."""
        self.trouble = ""
        for path, text in list(self._texts.items()):
            try:
                store.write_text(path, text)
            except HostError as error:
                self.trouble = str(error)
            else:
                del self._texts[path]

    def text(self, path: Path) -> str | None:
        """What the file has, or is to have; None where it cannot be read."""
        return self._texts[path] if path in self._texts else store.cached_text(path)

    def seen(self, paths: Paths) -> Paths:
        """The same files, with what could not be written."""
        return replace(paths, staged={**paths.staged, **self._texts})
