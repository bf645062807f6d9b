# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A ruleset of either engine: named sections of lines, which can be compared and shown.

A section is a chain (its rules in order) or a map or set (its elements, in any order). The wanted ruleset, the kernel's
form of it and the live ruleset all have this shape. So `changed`, the diff and the transaction come from the same
comparison.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..packets import Family, in_order


class Key(NamedTuple):
    """What identifies a section: ("ip", "natlb", "map", "slot_tcp") or ("ip6", "nat", "chain", "NATLB.pre").

    What is no rule has a kind of its own (`file`, `unit`, `sysctl`, `route`), and no family or table.
    """

    family: Family | Literal[""]
    table: str
    kind: str
    name: str


#: Kinds whose body is a set of lines rather than a sequence.
UNORDERED = ("map", "set")
#: An element of a table of slots, and how many of one that differ are shown by themselves.
_SLOT = re.compile(r"\d+ : ")
_LONG = 32


@dataclass(frozen=True)
class Section:
    """`header` are the lines that declare it, `body` its rules or elements; elements are kept sorted."""

    header: tuple[str, ...]
    body: tuple[str, ...]


Ruleset = dict[Key, Section]


@dataclass(frozen=True)
class Changes:
    """What separates two rulesets, by section. All lists are sorted."""

    added: list[Key]
    removed: list[Key]
    modified: list[Key]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.modified)


def families_of(keys: Iterable[Key]) -> list[Family]:
    """The families that have sections."""
    return list(in_order({key.family for key in keys}))


def compare(live: Mapping[Key, Section], wanted: Mapping[Key, Section]) -> Changes:
    return Changes(
        added=sorted(wanted.keys() - live.keys()),
        removed=sorted(live.keys() - wanted.keys()),
        modified=sorted(key for key in wanted.keys() & live.keys() if wanted[key] != live[key]),
    )


def unified(live: Mapping[Key, Section], wanted: Mapping[Key, Section]) -> str:
    """A unified diff of two rulesets, one file header per section; empty where they are equal."""
    changes = compare(live, wanted)
    renamed = _renamed(changes)
    lines: list[str] = []
    for key in sorted({*changes.added, *changes.removed, *changes.modified} - {*renamed.values()}):
        before, after = live.get(renamed.get(key, key)), wanted.get(key)
        if key.kind in UNORDERED and before is not None and after is not None:
            # Of ten thousand equal elements none is shown, and none needs to be aligned.
            before, after = _without(before, after), _without(after, before)
        title, former = (" ".join(part for part in each if part) for each in (key, renamed.get(key, key)))
        names = former if before is not None else "/dev/null", title if key in wanted else "/dev/null"
        if key.kind == "map" and _is_long_table(before, after):
            lines += [f"--- {names[0]}", f"+++ {names[1]}", *_tallied(live.get(key), wanted.get(key))]
            continue
        lines.extend(difflib.unified_diff(_lines(before), _lines(after), *names, n=0, lineterm=""))
        if before is not None and after is None and not _lines(before):
            lines += [f"--- {title}", "+++ /dev/null"]
        if after is not None and before is None and not _lines(after):
            lines += ["--- /dev/null", f"+++ {title}"]
    return "".join(f"{line}\n" for line in lines)


def _is_long_table(before: Section | None, after: Section | None) -> bool:
    """Whether these elements, which differ, are slots of a table of a hash, and more than anybody reads."""
    found = [*(before.body if before else ()), *(after.body if after else ())]
    return len(found) > _LONG and all(map(_SLOT.match, found))


def _tallied(before: Section | None, after: Section | None) -> Iterator[str]:
    """Of such a table how many slots lead where, and how many of them have not before: a line for each backend that has
    other slots, not one for each slot."""
    old, new = (each.header if each else () for each in (before, after))
    yield from (f"-{line}" for line in old if line not in new)
    yield from (f"+{line}" for line in new if line not in old)
    was, now = (_leading(each.body if each else ()) for each in (before, after))
    for target in sorted({*was, *now}):
        slots, others = was.get(target, set()), now.get(target, set())
        if slots and slots != others:
            yield f"-{target}: {len(slots)} slots"
        if others and slots != others:
            yield f"+{target}: {len(others)} slots" + (f", {len(others - slots)} of them others" if before else "")


def _leading(body: Iterable[str]) -> dict[str, set[str]]:
    """The slots that lead to each target."""
    found: dict[str, set[str]] = {}
    for line in body:
        slot, _colon, target = line.partition(" : ")
        found.setdefault(target, set()).add(slot)
    return found


def _renamed(changes: Changes) -> dict[Key, Key]:
    """Sets that took the place of another one, which is what a name says that tells what is in it behind a slash."""
    removed: dict[Key, list[Key]] = {}
    for key in changes.removed:
        if key.kind == "set" and "/" in key.name:
            removed.setdefault(_untold(key), []).append(key)
    pairs = {key: removed.get(_untold(key), []) for key in changes.added if key.kind == "set"}
    return {key: before[0] for key, before in pairs.items() if "/" in key.name and len(before) == 1}


def _untold(key: Key) -> Key:
    """Without what is behind the slash."""
    return key._replace(name=key.name.partition("/")[0])


def _without(section: Section, other: Section) -> Section:
    return Section(
        tuple(line for line in section.header if line not in other.header),
        tuple(sorted(set(section.body) - set(other.body))),
    )


def _lines(section: Section | None) -> list[str]:
    return [] if section is None else [*section.header, *section.body]
