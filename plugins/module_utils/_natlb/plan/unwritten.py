# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was found and cannot be written down, as with a full /run.

A dead backend must not stay in rotation for that. So the rules follow what is here, as if it stood in its file. Others
who read the host learn of it once there is room. Where a run or an order writes the file before, what that has changed
there stays, and what is here is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import HostError
from ..host import store
from ..host.store import Paths
from ..model import local_state
from ..model.local_state import Parsed
from . import overlay

#: How the files are read, and written.
_KINDS: dict[str, tuple[Callable[[str | None, str], Parsed[Any]], Callable[[Any, str], str]]] = {
    store.HEALTH: (local_state.parse_findings, local_state.dump_findings),
    store.MULTIPLES: (local_state.parse_multiples, local_state.dump_multiples),
}


class Unwritten:
    """Texts by file. All but `text` and `seen` are to be called with the lock held."""

    def __init__(self) -> None:
        self._texts: dict[Path, str] = {}
        #: What the files had when they could not be written first.
        self._former: dict[Path, str | None] = {}
        #: Why they are not in their files; empty where all are.
        self.trouble = ""

    def write(self, path: Path, text: str) -> None:
        """Write a file now, or by a later `retry`."""
        self._texts[path] = text
        self.retry()

    def retry(self) -> None:
        """Write what could not be written before."""
        self.trouble = ""
        for path in [*self._texts]:
            try:
                store.write_text(path, self._composed(path))
            except HostError as error:
                self._former.setdefault(path, store.cached_text(path))
                self.trouble = str(error)
            else:
                del self._texts[path]
                self._former.pop(path, None)

    def text(self, path: Path) -> str | None:
        """What the file has, or is to have; None where it cannot be read."""
        return self._composed(path) if path in self._texts else store.cached_text(path)

    def seen(self, paths: Paths) -> Paths:
        """The same files, with what could not be written."""
        return replace(paths, staged={**paths.staged, **{path: self._composed(path) for path in self._texts}})

    def _composed(self, path: Path) -> str:
        """The text that could not be written, with what others have changed in the file since then."""
        text, now = self._texts[path], store.cached_text(path) if path in self._former else None
        if now == self._former.get(path):
            return text
        host, (read, dump) = overlay.identity(), _KINDS[path.name]
        former, ours, theirs = (read(each, host).entries for each in (self._former[path], text, now))
        kept = {place: item for place, item in theirs.items() if place in ours or former.get(place) != item}
        return dump({**kept, **{place: item for place, item in ours.items() if former.get(place) != item}}, host)
