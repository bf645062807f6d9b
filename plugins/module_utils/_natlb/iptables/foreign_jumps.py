# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules in foreign chains that lead into our chains.

These are foreign rules, so they stay. The kernel deletes no chain that a rule leads to. If such a chain is no longer
needed, it is emptied, so that packets pass through it. A later run removes it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from ..packets import Family
from ..ruleset.sections import Key, Ruleset, Section

#: Where our own jumps stand.
_BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")

#: Chains of ours, and the rules of others that lead to each.
Held = dict[Key, list[str]]


def split(found: Ruleset) -> tuple[Ruleset, Held]:
    """Our sections, without chains that stay only for foreign rules, and the chains that foreign rules lead to."""
    held: Held = {}
    for key, section in found.items():
        if _is_foreign(key):
            for rule in section.body:
                held.setdefault(key._replace(kind="chain", name=_target(rule)), []).append(rule)
    if not held:
        return found, held
    ours = {
        key: section
        for key, section in found.items()
        if not _is_foreign(key) and not (key in held and section == Section((), ()))
    }
    return ours, held


def _is_foreign(key: Key) -> bool:
    return key.kind == "jump" and key.name not in _BUILT_IN


def _target(rule: str) -> str:
    words = shlex.split(rule)
    return [after for word, after in zip(words, words[1:]) if word in ("-j", "-g")][-1]


def warnings(held: Held, wanted: Mapping[Key, Section], programs: Mapping[Family, str]) -> Sequence[str]:
    """About chains that stay although they are not wanted; `programs` by family."""
    return [
        f"{programs[family]}, table {key.table}: chain {key.name} is no longer needed, but the foreign rule "
        f"`{rule}` leads to it, so it stays, empty; delete that rule if you do not need it"
        for family in programs
        for key, rules in sorted(held.items())
        if key.family == family and key not in wanted
        for rule in rules
    ]
