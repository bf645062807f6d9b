# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run looks at: the programs that it starts, and the files that it opens."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from _natlb.host import observation, processes, revision, store
from _natlb.plan import apply
from _natlb.plan.module_options import Options

from . import drive

#: Files that hold what was found out, and what the interpreter itself opens. No plan depends on them.
_CACHES = (store.NORMAL, store.SEEN, store.BEFORE, "lock")
_watching: list[str] | None = None
_hooked = False


def balance(root: str, services: Any, egress: Any = None, **options: Any) -> tuple[Any, list[str]]:
    """`drive.balance`, and the names of the programs that it started."""
    started: list[str] = []
    real = processes._execute

    def ended(program: str, argv: Sequence[str], text: str, independent: bool) -> tuple[int, str, str]:
        started.append(os.path.basename(argv[0]))
        return real(program, argv, text, independent)

    with mock.patch.object(processes, "_execute", ended):
        return drive.balance(root, services, egress, **options), started


def unobserved(root: str, services: Any, egress: Any = None, variant: str | None = None, **options: Any) -> list[str]:
    """The files that a plan opens and the programs that it starts with nobody taking note."""
    global _watching  # noqa: PLW0603
    _hook()
    request = Options(services, egress, **options).request(drive._paths(root), variant, check=False)
    with observation.watched():
        _watching = found = []
        try:
            apply.make_plan(request)
        finally:
            _watching = None
    return [item for item in found if Path(item.partition(" ")[0]).name not in _CACHES]


def _hook() -> None:
    """An audit hook stays for good (PEP 578), so there is one, which mostly does nothing."""
    global _hooked  # noqa: PLW0603
    if not _hooked:
        sys.addaudithook(_note)
        _hooked = True


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is None or getattr(observation._inside, "nested", False):
        return
    if event == "open" and isinstance(arguments[0], str) and arguments[0].startswith("/"):
        _watching.append(arguments[0])
    elif event in ("subprocess.Popen", "os.listdir", "os.scandir", "fcntl.ioctl", "socket.bind", "socket.connect"):
        _watching.append(f"{event} {arguments[:2]} in {threading.current_thread().name}")


def commit_between(root: str, services: Any, line: str, egress: Any = None, **options: Any) -> Any:
    """`drive.balance` with a commit of somebody else between what it lists and what it loads."""
    real = apply._commit_parts

    def commit(plan: Any) -> str:
        processes.run(["nft", *line.split()])
        return real(plan)

    with mock.patch.object(apply, "_commit_parts", commit):
        return drive.balance(root, services, egress, **options)


def now() -> Any:
    """The moment of this host."""
    return revision.current()
