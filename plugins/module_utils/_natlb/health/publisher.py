# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishes what `status/scrape.py` collects: as a file for node_exporter, and over HTTP where that is asked for.

Each collection is made by a child process, so that checks go on meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from pathlib import Path
from typing import Callable

from ..errors import HostError
from ..host import service_manager, store
from ..model.metrics import Metrics
from ..model.values import endpoint
from .forked import forked, keep_from_children

#: How often the file is written, and after an error.
EVERY_S, RETRY_S = 15.0, 60.0
#: So many are answered at once.
_MOST = 4


class Publisher:
    """`collect` gives the text."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        collect: Callable[[bool], str],
        say: Callable[..., None] = service_manager.say,
    ) -> None:
        self._selector, self._collect, self._say = selector, collect, say
        self._wanted = Metrics()
        self._peer: socket.socket | None = None
        self._answer: Callable[[socket.socket, tuple[str, int], Callable[[], str]], None] | None = None
        self._writer: int | None = None
        self._answering: set[int] = set()
        self._due = self._listen_at = float("inf")
        self._trouble: dict[str, str] = {}
        #: Files that are not written any more.
        self._left: set[Path] = set()

    @property
    def due(self) -> float:
        """When `advance` is to be called next."""
        return min(self._due, self._listen_at)

    @property
    def troubles(self) -> list[str]:
        """Why nobody sees the metrics, as of now."""
        return list(self._trouble.values())

    def set_up(self, wanted: Metrics, now: float) -> None:
        """Publish so from now on."""
        if wanted.listen != self._wanted.listen or (wanted.listen and self._peer is None):
            self._listen(wanted.listen, now)
        if self._wanted.file is not None and self._wanted.file != wanted.file:
            self._left.add(Path(self._wanted.file))
        if wanted.directory is None:
            self._due = float("inf")
            self._trouble.pop("directory", None)
        elif wanted.directory != self._wanted.directory:
            self._due = now
        self._wanted = wanted

    def advance(self, now: float) -> None:
        """Write the file, and try again to listen, where that is due."""
        self._reap(now)
        if now >= self._listen_at:
            self._listen(self._wanted.listen, now)
        if now >= self._due and self._writer is None and self._wanted.file is not None:
            path = Path(self._wanted.file)
            self._writer = forked(lambda: _write(path, self._collect(self._wanted.idle)), "metrics: ")
            self._due = now + EVERY_S

    def close(self) -> None:
        self._listen(None, 0.0)

    def _listen(self, where: tuple[str, int] | None, now: float) -> None:
        self._listen_at = float("inf")
        if self._peer is not None:
            self._selector.unregister(self._peer)
            self._peer.close()
            self._peer = None
        before = self._trouble.pop("listen", None)
        if where is None:
            return
        # Python's server takes 2 MiB, which hardly any agent needs.
        from .metrics_page import answer  # noqa: PLC0415

        self._answer = answer
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        try:
            self._peer = keep_from_children(socket.create_server(where, family=family, backlog=16))
        except OSError as error:
            trouble = f"metrics.listen: nobody can be served at {endpoint(*where)}: {os.strerror(error.errno or 0)}"
            self._trouble["listen"], self._listen_at = trouble, now + RETRY_S
            if trouble != before:
                self._say(trouble, service_manager.WARNING)
            return
        self._peer.setblocking(False)
        self._selector.register(self._peer, selectors.EVENT_READ, self._accept)

    def _accept(self, _mask: int) -> None:
        answer = self._answer
        if self._peer is None or answer is None:
            return
        with contextlib.suppress(OSError):
            client, address = self._peer.accept()
            with client:
                self._answering = {child for child in self._answering if os.waitpid(child, os.WNOHANG)[0] == 0}
                if len(self._answering) < _MOST:
                    idle = self._wanted.idle
                    self._answering.add(
                        forked(lambda: answer(client, address, lambda: self._collect(idle)), "metrics: ")
                    )

    def _remove_left(self) -> None:
        """What node_exporter would go on telling."""
        while self._left:
            path = self._left.pop()
            if self._wanted.file != str(path):
                with contextlib.suppress(HostError):
                    store.remove(path)

    def _reap(self, now: float) -> None:
        if self._writer is None:
            self._remove_left()
            return
        ended, status = os.waitpid(self._writer, os.WNOHANG)
        if ended:
            self._writer = None
            self._trouble.pop("directory", None)
            if status:
                self._due = now + RETRY_S
                self._trouble["directory"] = _unwritten(self._wanted)


def _unwritten(wanted: Metrics) -> str:
    if wanted.directory is not None and not Path(wanted.directory).is_dir():
        return f"metrics.directory: {wanted.directory} is not there"
    return f"metrics.directory: {wanted.file} could not be written (`journalctl -u natlb-agent` says why)"


def _write(path: Path, text: str) -> None:
    """A folder that is not there is node_exporter's to make."""
    if not path.parent.is_dir():
        raise HostError(f"{path.parent} is not there")
    store.write_text(path, text, 0o644)
