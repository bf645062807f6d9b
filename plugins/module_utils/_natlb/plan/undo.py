# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Undoes a change: with commands that are prepared before it, or at once after it has failed half way."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import HostError
from ..host import processes
from ..host.processes import Command
from ..ruleset.sections import Key, Ruleset, compare
from .parts import Part
from .rollback import WayBack

#: So many sections are named in a message.
_NAMED = 5


def way_back(parts: Sequence[Part]) -> WayBack:
    """What undoes the whole change once it is made: its parts in the reverse order, of which rules are the first."""
    rules: list[Command] = []
    rest: list[Command] = []
    for part in reversed(parts):
        (rules if part.of_engine else rest).extend(part.undo(part.wanted))
    return WayBack(rules, rest)


def undo_now(parts: Sequence[Part]) -> str:
    """Undo at once an incomplete change, from the present state of the host. Returns what was restored and what was
    not.

    A failure here neither stops the restoration of the other parts nor hides why the run failed.
    """
    complaints: list[str] = []
    _attempt(parts, complaints, gently=True)
    if any(_drift(part, []) is not None for part in parts):
        _attempt(parts, complaints, gently=False)
    left = [key for part in parts for key in _differing(part, complaints)]
    residue = [text for part in parts for text in [_residue(part)] if text]
    if not left and not residue:
        return "the former state of the host was restored"
    named = [*(" ".join(word for word in key if word) for key in sorted(left)[:_NAMED])]
    if len(left) > _NAMED:
        named.append(f"{len(left) - _NAMED} more")
    said = ["the former state of the host was restored, but not completely"]
    said += [f"these differ from it: {', '.join(named)}"] if named else []
    return "; ".join([*said, *residue, *dict.fromkeys(complaints if left else [])])


def _attempt(parts: Sequence[Part], complaints: list[str], gently: bool) -> None:
    commands: list[Command] = []
    for part in reversed(parts):
        now = _drift(part, complaints)
        if now is None:
            continue
        try:
            commands += part.undo_in_place(now) if gently and part.undo_in_place is not None else part.undo(now)
        except HostError as error:
            complaints.append(str(error))
    try:
        processes.run_commands(commands, past_failures=True)
    except HostError as error:
        complaints.append(str(error))


def _drift(part: Part, complaints: list[str]) -> Ruleset | None:
    """See `Part.drift`; where the host does not say, what the run wanted stands in for what is there."""
    try:
        return part.drift()
    except HostError as error:
        complaints.append(str(error))
        return part.wanted


def _differing(part: Part, complaints: list[str]) -> list[Key]:
    now = _drift(part, complaints)
    changes = compare(part.live, now) if now is not None else None
    return [*changes.added, *changes.removed, *changes.modified] if changes else []


def _residue(part: Part) -> str:
    try:
        return part.residue()
    except HostError as error:
        return str(error)
