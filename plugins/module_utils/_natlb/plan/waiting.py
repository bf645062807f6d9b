# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change that waits for its confirmation, and what happens to backends meanwhile.

Its declaration is live, and the former one is kept. Nobody knows yet which of them lasts. So what operators say and
health checks find holds for both: for the live rules, for what a confirmation keeps, for the way back, and for the
former rules, which a reboot would load.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..errors import OtherVersionError
from ..host import boot_set, processes, revision, staging, store
from ..host.processes import Command
from ..host.revision import Revision
from ..host.staging import Entry, Staging
from ..host.store import Content, Paths
from ..model.choices import Variant
from ..model.engine import Engine
from ..ruleset.sections import Ruleset, compare
from . import apply, rollback
from . import request as requests
from .apply import Plan
from .boot import SYSCTL
from .outcome import Outcome
from .unit_files import PROGRAM, UPLINKS_SCRIPT

#: Files of a set that boots which depend on nothing that is said or found of backends.
OF_THE_RUN = (store.STATE, SYSCTL, PROGRAM, UPLINKS_SCRIPT)
#: How often in a row the program of a change is asked to follow, while others change rules.
FOLLOWED_TIMES = 3
#: What `natlb apply` says then, in all versions.
NOTHING_TO_CHANGE = "nothing to change"


def live(paths: Paths) -> Paths:
    """Where the declaration is read that is live: the one of a change that waits, or the one that is kept."""
    directory = rollback.waiting(paths)
    return paths if directory is None else view(paths, directory)


def view(paths: Paths, directory: Path) -> Paths:
    """The same of the change that waits in `directory`."""
    staged = rollback.staged(directory)
    entries = {**staged.before, **staged.after}
    texts = {path: entry[0] if entry else None for path, entry in entries.items() if not isinstance(entry, str)}
    if staged.files is not None:
        for place in (paths.etc, paths.etc / boot_set.CURRENT):
            for name in (store.STATE, store.EFFECTIVE):
                texts[place / name] = staged.files[name][0] if name in staged.files else None
    return replace(paths, staged={**paths.staged, **texts})


def other_program(directory: Path) -> str | None:
    """The text of the program that a change which waits there brings, where that is another than the one that runs now
    (`cli/single_file.py`). Modules of a run are none: they may follow."""
    own = getattr(globals().get("__loader__"), "digest", None)
    brought = (rollback.staged(directory).files or {}).get(PROGRAM) if own else None
    return brought[0] if brought is not None and str(own) not in brought[0] else None


@contextlib.contextmanager
def lock(paths: Paths) -> Iterator[Path | None]:
    """The lock, and the folder of the change that waits. Raises `OtherVersionError` where that brings another program:
    this one may read its declaration otherwise, or not at all, and would take its rules away."""
    with contextlib.ExitStack() as held:
        directory = held.enter_context(rollback.lock_with_none_overdue(paths))
        program = None if directory is None else other_program(directory)
        if program is not None:
            raise OtherVersionError(program)
        yield directory


class Followed(NamedTuple):
    """`directory` is where the change waits. `revision` and `listed` are those of rules that its program has found to
    be as they should, None where that is not certain or no such thing is known. `changed`: it did not at once."""

    directory: Path | None
    revision: Revision | None
    listed: Ruleset | None
    changed: bool


def let_follow(paths: Paths, variant: Variant | None, program: str, engine: Engine) -> Followed:
    """Have the program of a change that waits make the host follow. It takes the lock itself. Raises `HostError`.

    Others may change rules between its last look and its end, so it is asked until it changes nothing.
    """
    where = [] if paths.etc == store.DEFAULT_PATHS.etc else ["--root", str(paths.etc.parent)]
    which = ["--variant", variant] if variant else []
    argv = [sys.executable, "-I", "-OO", "-", *which, *where, "apply"]

    def live() -> tuple[Path | None, Revision | None, Ruleset | None]:
        numbered = engine.is_numbered
        return rollback.waiting(paths), revision.current() if numbered else None, None if numbered else engine.listed()

    now = live()
    for count in range(FOLLOWED_TIMES):
        if now[0] is None:
            # It waits no more, and what is kept is for this program.
            break
        before, said = now, processes.run(argv, program)
        now = live()
        # Without numbers, rules that were taken away twice look as if nobody had touched them.
        if now == before and (engine.is_numbered or NOTHING_TO_CHANGE in said):
            return Followed(*now, count > 0)
    return Followed(now[0], None, None, True)


def say(directory: Path, path: Path, text: str | None) -> None:
    """Let a change that waits keep this text in a file, or none."""
    staged = rollback.staged(directory)
    before = {place: entry for place, entry in staged.before.items() if place != path}
    after = {**staged.after, path: None if text is None else (text, 0o600)}
    rollback.restage(directory, replace(staged, before=before, after=after))


def follow(paths: Paths, directory: Path, variant: Variant | None) -> tuple[Plan, Outcome, Revision | None]:
    """Let the change that waits in `directory` follow overrides and health. To be called with the lock held.

    The kernel comes first. Returns the revision that it is left with, where that is certain. Raises `HostError`.
    """
    request, _warnings = requests.restored(replace(view(paths, directory), system=None), variant)
    plan, outcome, left = apply.carry_out_live(request)
    former = _former(paths, variant)
    staged = _restaged(paths, rollback.staged(directory), plan.staged)
    rollback.renew(directory, _rules_back(former, plan.engine), staged)
    return plan, outcome, left


def _former(paths: Paths, variant: Variant | None) -> tuple[Engine, Ruleset] | None:
    """The rules that an undoing is to lead to. The same are left for the next boot."""
    request, _warnings = requests.restored(replace(paths, system=None), variant)
    if request.config.empty:
        return None
    plan = apply.make_plan(request)
    if request.persist and plan.staged.files:
        kept = boot_set.read(paths.etc)
        files = _with_rules(kept, plan.staged.files)
        if files != kept:
            with staging.prepared(paths, Staging(files=files)) as put_in_place:
                put_in_place()
    return plan.engine, plan.rules.wanted


def _rules_back(former: tuple[Engine, Ruleset] | None, engine: Engine) -> list[Command]:
    """From the rules that are live now, which `engine` holds."""
    now = engine.listed()
    before, rules = former if former is not None else (engine, {})
    if before.title == engine.title:
        return engine.undo(rules, now) if compare(rules, now) else []
    return [*before.undo(rules, before.listed()), *(engine.undo({}, now) if now else [])]


def _restaged(paths: Paths, old: Staging, new: Staging) -> Staging:
    """What the change has staged, with what is found and said now. Files of the system are the run's own."""

    def merged(entries: Mapping[Path, Entry | None], later: Mapping[Path, Entry | None]) -> dict[Path, Entry | None]:
        ours = (paths.etc, paths.run)
        return {**{path: entry for path, entry in entries.items() if path.parent not in ours}, **later}

    boots = boot_set.read(paths.etc)
    kept = boots if old.files is None else old.files
    files = _with_rules(kept, boots if new.files is None else new.files) if kept else kept
    return replace(
        old,
        files=None if old.files is None and files == boots else files,
        before=merged(old.before, new.before),
        after=merged(old.after, new.after),
    )


def _with_rules(kept: Mapping[str, Content], rules: Mapping[str, Content]) -> dict[str, Content]:
    """A set that boots, with the rules of another one."""
    found = {name: content for name, content in rules.items() if name not in OF_THE_RUN}
    return {**{name: content for name, content in kept.items() if name in OF_THE_RUN}, **found}
