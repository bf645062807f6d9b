# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run looks at: the programs that it starts, and the files that it opens."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from _natlb.host import observation, processes, revision, store
from _natlb.iptables.engine import IptablesEngine
from _natlb.nftables.engine import NftablesEngine
from _natlb.plan import apply, last_declaration, unchanged
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


def two_plans(
    root: str, services: Any, egress: Any = None, variant: str | None = None, **options: Any
) -> tuple[list[str], bool, int]:
    """What differs between a plan that builds on the last declaration, however much is another one, and a plan that
    begins anew; whether the first has its rules from there; and how many services it has."""
    paths = drive._paths(root)
    asked = unchanged.asked({"services": services})
    last = last_declaration.read(paths, asked)
    declared = Options(services, egress, **options)
    rendered: list[int] = []
    plans = []
    for known in (last, None):
        request = declared.request(paths, variant, False, None, known)
        with mock.patch.object(last_declaration, "_MANY", 0), _counting_renders(rendered):
            plan = apply.make_plan(request)
        plan.must_be_possible()
        plans.append(_shown(plan))
    differing = [name for name, value in plans[0].items() if value != plans[1][name]]
    return differing, len(rendered) < 2, 0 if last is None else len(last.known.services)


@contextlib.contextmanager
def _counting_renders(rendered: list[int]) -> Iterator[None]:
    """Note each time that the rules of a configuration are rendered as a whole."""
    with contextlib.ExitStack() as stack:
        for engine in (NftablesEngine, IptablesEngine):
            real = engine.render

            def render(self: Any, config: Any, around: Any, real: Any = real) -> Any:
                rendered.append(len(config.services))
                return real(self, config, around)

            stack.enter_context(mock.patch.object(engine, "render", render))
        yield


def _shown(plan: Any) -> dict[str, Any]:
    """All that a run makes of a plan."""
    found = {name: getattr(plan, name) for name in ("previous", "rendered", "transaction", "warnings", "passing")}
    found |= {"staged": plan.staged.dump(), "records": plan.records, "laid": plan.laid, "around": plan.around}
    found |= {f"part {number}": (part.live, part.wanted) for number, part in enumerate(plan.parts)}
    found |= {f"form {number}": form.known for number, form in enumerate(plan.normal)}
    return {**found, "diff": plan.diff(), "outcome": plan.outcome(), "request": plan.request, "state": plan.state}
