# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A process that stays on the balancer, with the configuration in memory, as the agent is."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

from _natlb.host import nf_tables, processes, scratch, store, tracked
from _natlb.model.effective import Finding, Place
from _natlb.nftables.engine import NftablesEngine
from _natlb.plan import overlay, rollback
from _natlb.plan.running import Running
from _natlb.ruleset.transaction import Transaction

from . import drive

#: What stands for the name of a program where none was needed.
AT_ONCE = "at once"

_running: dict[str, Running] = {}


def restore(root: str, variant: str | None) -> Any:
    running = _running.setdefault(root, Running(drive._paths(root), variant))
    return running.restore()


def restored(root: str) -> tuple[Any, list[str]]:
    """The outcome, and the lines that were run, or made at once."""
    with _lines_run() as lines:
        return _running[root].restore(), lines


def find(root: str, *found: tuple[Any, ...]) -> tuple[bool, list[str]]:
    """(service, address, state) of backends. Whether the host was read, and the lines that were run."""
    findings = {
        Place(name, address, port[0] if port else None): Finding(state, "", "a test says so")
        for name, address, state, *port in found
    }
    with _lines_run() as lines:
        return _running[root].find(findings) is not None, lines


def find_by_program(root: str, *found: tuple[Any, ...]) -> tuple[bool, list[str]]:
    """The same with nothing made at once."""
    with mock.patch.object(NftablesEngine, "made_at_once", lambda _self, transaction, *_known: transaction):
        return find(root, *found)


def made_at_once(text: str, behind: int = 0) -> tuple[bool, bool]:
    """Whether the kernel has taken this transaction, on top of a generation so far behind, and whether its generation
    is another one. Raises `HostError`."""
    began = nf_tables.generation() or 0
    try:
        left = NftablesEngine().made_at_once(Transaction("delta", {"nft 1": text}), {}, began - behind)
        return not left.texts, nf_tables.generation() != began
    finally:
        assert not behind or nf_tables.generation() == began


def find_in_the_sandbox(root: str, *found: tuple[Any, ...]) -> tuple[bool, list[str]]:
    """The same where no namespace is to be had to ask about rules, as in the sandbox of the agent's unit."""
    with mock.patch.object(scratch, "listed", return_value=None):
        return find(root, *found)


def restored_in_the_sandbox(root: str) -> tuple[Any, list[str]]:
    with mock.patch.object(scratch, "listed", return_value=None), mock.patch.object(scratch, "is_there", bool):
        return restored(root)


def drift_beside(root: str, variant: str | None, moment: str, *found: tuple[Any, ...]) -> bool:
    """Whether a look at the host calls it drift that health checks find this, and their change comes at that moment:
    between what the look reads of `files` and of rules; `before` the change takes the lock; or `under` the lock, before
    it commits."""

    def look() -> bool:
        return bool(drive.info(root, variant=variant, pending=True)["drift"])

    if moment == "files":
        with _once(overlay, "read", after=lambda: find(root, *found)):
            return look()
    seen: list[bool] = []
    if moment == "before":
        with _once(rollback, "lock_with_none_overdue", before=lambda: seen.append(look())):
            find(root, *found)
        return seen[0]
    asked = threading.Event()
    with ThreadPoolExecutor(1) as pool:

        def begin() -> None:
            pending = pool.submit(look)
            pending.add_done_callback(lambda done: (seen.append(done.result()), asked.set()))
            with _once(store, "lock", before=asked.set):
                assert asked.wait(60), "the look neither ends nor asks for the lock"

        with _once(Running, "_follow", before=begin):
            find(root, *found)
    return seen[0]


@contextlib.contextmanager
def _once(where: Any, name: str, before: Callable[[], Any] = bool, after: Callable[[], Any] = bool) -> Iterator[None]:
    """Do something before or after the first call of this function."""
    real, first = getattr(where, name), [True]

    def call(*given: Any, **options: Any) -> Any:
        is_first = bool(first) and first.pop()
        if is_first:
            before()
        found = real(*given, **options)
        if is_first:
            after()
        return found

    with mock.patch.object(where, name, call):
        yield


@contextlib.contextmanager
def _lines_run() -> Iterator[list[str]]:
    lines: list[str] = []
    real = processes.run_commands

    def run_commands(commands: Any, *options: Any) -> None:
        lines.extend(os.path.basename(line.split()[0]) + "\n" + text for line, text in commands)
        real(commands, *options)

    at_once = NftablesEngine.made_at_once

    def made_at_once(engine: NftablesEngine, transaction: Transaction, *known: Any) -> Transaction:
        left = at_once(engine, transaction, *known)
        lines.extend(f"{AT_ONCE}\n{text}" for unit, text in transaction.texts.items() if unit not in left.texts)
        return left

    with (
        mock.patch.object(processes, "run_commands", run_commands),
        mock.patch.object(NftablesEngine, "made_at_once", made_at_once),
    ):
        yield lines


def wait_for_attempts(family: str, address: str, port: int, count: int, within_s: float = 20.0) -> None:
    """Until so many connections to a backend are waiting for its first answer."""
    give_up = time.monotonic() + within_s
    while len([item for item in tracked.of_backend(family, "tcp", address, port) if item.opening]) < count:
        if time.monotonic() > give_up:
            raise TimeoutError(f"fewer than {count} attempts")
        time.sleep(0.01)


def is_current(root: str) -> bool:
    return _running[root].is_current()


def is_needed(root: str, address: str) -> bool:
    return _running[root].is_needed(address)
