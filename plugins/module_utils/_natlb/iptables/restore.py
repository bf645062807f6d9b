# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parses the output of iptables-save, and makes the input of iptables-restore.

Everything goes through `iptables-restore --noflush`, which empties and refills just the chains that its input declares,
and commits each table in one step; many new chains go in a step before, when nothing leads to them yet. Tables go in an
order in which no moment between two commits refuses a connection that both the old and the new rules serve: filter
before nat, since what nat translated the filter rules let pass.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence

from ..packets import FAMILIES, Family
from ..ruleset.sections import Key, Ruleset, Section
from .dispatch import PREFIX

_TABLES = ("mangle", "filter", "nat")
_NOTHING = Section((), ())
#: From so many chains on a commit of their own costs less than it saves (see `_table_text`).
_MANY_CHAINS = 2000


# -- reading -------------------------------------------------------------------------------------------------------


def parse_save(family: Family, text: str) -> Ruleset:
    """Our chains, and every rule of another chain that leads into one, from the output of `iptables-save [-c]`."""
    chains: dict[Key, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(f":{PREFIX}"):
            chains.setdefault(Key(family, table, "chain", line[1:].split()[0]), [])
        elif PREFIX in line:
            rule = _rule(line)
            if rule is not None:
                name, body = rule
                kind = "chain" if name.startswith(PREFIX) else "jump"
                if kind == "chain" or _leads_to_us(body):
                    chains.setdefault(Key(family, table, kind, name), []).append(body)
    return {key: Section((), tuple(rules)) for key, rules in chains.items()}


def jump_places(family: Family, text: str) -> dict[Key, tuple[int, ...]]:
    """At which places, counted from 1, our jumps stand in each chain of others."""
    places: dict[Key, tuple[int, ...]] = {}
    counts: dict[str, int] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table, counts = line[1:].strip(), {}
        elif line.startswith("-A ") and not line.startswith(f"-A {PREFIX}"):
            chain = line.split(" ", 2)[1]
            counts[chain] = counts.get(chain, 0) + 1
            if PREFIX in line and _leads_to_us(line):
                key = Key(family, table, "jump", chain)
                places[key] = (*places.get(key, ()), counts[chain])
    return places


def tables(text: str) -> set[str]:
    """The tables that a listing has."""
    return {line[1:].strip() for line in text.splitlines() if line.startswith("*")}


def incompatible(text: str) -> set[str]:
    """The tables that a listing only names, since they hold what iptables has no words for."""
    return set(re.findall(r"^# Table `(\w+)' is incompatible,", text, re.MULTILINE))


def _rule(line: str) -> tuple[str, str] | None:
    """The chain and the text of an `-A` line, without packet counters."""
    if line.startswith("["):
        line = line.partition("] ")[2]
    words = line.split(" ", 2)
    return (words[1], line) if len(words) > 1 and words[0] == "-A" else None


def _leads_to_us(rule: str) -> bool:
    """Whether the rule's target is a chain of ours. A comment may say anything, so words are told as a shell does."""
    try:
        words = shlex.split(rule)
    except ValueError:
        return False
    targets = [after for word, after in zip(words, words[1:]) if word in ("-j", "-g")]
    return bool(targets) and targets[-1].startswith(PREFIX)


# -- writing -------------------------------------------------------------------------------------------------------


def full(ruleset: Mapping[Key, Section], family: Family) -> str:
    """Everything of a family in one step a table, to be loaded where nothing is; empty if the family has nothing."""
    return _family_text({}, ruleset, ruleset, family, 1, {})


def delta(
    live: Mapping[Key, Section],
    normal: Mapping[Key, Section],
    rendered: Mapping[Key, Section],
    places: Mapping[Key, tuple[int, ...]] | None = None,
    held: Collection[Key] = (),
) -> dict[str, str]:
    """Input that makes `live` what is wanted, by family; families where nothing differs are left out.

    `normal` is what iptables-save shows once `rendered` is loaded: the one is compared with, the other is loaded. Jumps
    come first in their chains, but for those that have `places`. Chains that are `held` cannot be deleted.
    """
    texts = {family: _family_text(live, normal, rendered, family, 2, places or {}, held) for family in FAMILIES}
    return {family: text for family, text in texts.items() if text}


def remove(live: Mapping[Key, Section], held: Collection[Key] = ()) -> dict[str, str]:
    """Input that takes away everything of ours, by family."""
    return delta(live, {}, {}, held=held)


def _family_text(
    live: Mapping[Key, Section],
    normal: Mapping[Key, Section],
    rendered: Mapping[Key, Section],
    family: Family,
    steps: int,
    places: Mapping[Key, tuple[int, ...]],
    held: Collection[Key] = (),
) -> str:
    names = sorted({key.table for key in [*live, *normal] if key.family == family}, key=_table_order)
    return "".join(_table_text(live, normal, rendered, (family, table), steps, places, held) for table in names)


def _table_order(table: str) -> tuple[int, str]:
    return (_TABLES.index(table) if table in _TABLES else -1), table


def _table_text(
    live: Mapping[Key, Section],
    normal: Mapping[Key, Section],
    rendered: Mapping[Key, Section],
    place: tuple[Family, str],
    steps: int,
    places: Mapping[Key, tuple[int, ...]],
    held: Collection[Key],
) -> str:
    """One table's part; empty where nothing differs.

    The order matters: chains are declared before a rule leads to them, and a chain can go only when none does. It also
    is one in which iptables-nft is quick. For each line that it reads, 1.8.9 walks a sorted list of the chains named so
    far in this commit, up to the chain of the line and to the one that it leads to (cache_chain_list_insert); and it
    sorts what the kernel lists, which is in the order of creation, by a quicksort that takes the first one for its
    pivot (__nft_chain_list_sort). With chains in the order of their names both go with the square of their number. So
    those that lead nowhere come first, in the order of a balanced tree, and where they are many in a commit of their
    own; those that lead to them begin with the last names then. 12,000 chains load in 2.0 s so, in one commit in 3.0.
    """
    wanted, found = _of(normal, place, "chain"), _of(live, place, "chain")
    changed = {key.name: rendered[key].body for key in wanted if found.get(key) != wanted[key]}
    names = {key.name for key in wanted}
    new_ends = [key.name for key in wanted if key not in found and not _targets(rendered[key].body) & names]
    ahead = [line for name in _middle_first(new_ends) for line in _filled(name, changed[name])]
    gone = _middle_first([key.name for key in found if key not in wanted])
    jumps_wanted, jumps_found = _of(normal, place, "jump"), _of(live, place, "jump")
    moved = sorted(key for key in {*jumps_wanted, *jumps_found} if jumps_wanted.get(key) != jumps_found.get(key))
    lines = [f"-D{rule[2:]}" for key in moved for rule in jumps_found.get(key, _NOTHING).body]
    lines += [f"-F {name}" for name in gone]
    rest = {name: changed[name] for name in changed.keys() - set(new_ends)}
    lines += [line for name in _last_names_first(rest) for line in _filled(name, rest[name])]
    for key in moved:
        if key in jumps_wanted:
            rules = rendered[key].body
            stood = places.get(key, ())
            if len(stood) == len(rules):
                lines += [_inserted(rule, number) for rule, number in zip(rules, stood)]
            else:
                lines += [_inserted(rule) for rule in reversed(rules)]
    lines += [f"-X {name}" for name in gone if (*place, "chain", name) not in held]
    apart = steps > 1 and len(new_ends) >= _MANY_CHAINS
    return "".join(_commit(place[1], part) for part in ([ahead, lines] if apart else [[*ahead, *lines]]))


def _commit(table: str, lines: Sequence[str]) -> str:
    return "\n".join([f"*{table}", *lines, "COMMIT", ""]) if lines else ""


def _filled(name: str, rules: Sequence[str]) -> list[str]:
    return [f":{name} - [0:0]", *rules]


def _targets(rules: Sequence[str]) -> set[str]:
    """The last words of rules: the chains that they lead to, among others."""
    return {rule[rule.rfind(" ") + 1 :] for rule in rules}


def _last_names_first(chains: Mapping[str, Sequence[str]]) -> list[str]:
    """Chains by the last one of the names that they lead to in the end, and each behind those that it leads to."""
    targets = {name: [t for t in _targets(rules) if t.startswith(PREFIX)] for name, rules in chains.items()}
    last: dict[str, str] = {}
    ordered: dict[str, None] = {}

    def last_name(name: str) -> str:
        if name not in last:
            last[name] = max(map(last_name, targets.get(name, ())), default=name)
        return last[name]

    def add(name: str) -> None:
        if name in chains and name not in ordered:
            for target in sorted(targets[name], key=lambda target: (last_name(target), target), reverse=True):
                add(target)
            ordered[name] = None

    for name in sorted(chains, key=lambda name: (last_name(name), name), reverse=True):
        add(name)
    return list(ordered)


def _middle_first(names: Sequence[str]) -> list[str]:
    """Sorted names in the order of a balanced search tree: each before its two halves, of which the later goes first.

    So a name has few smaller ones before it (less than the logarithm of their number), and a first name parts the rest
    in halves.
    """
    found: list[str] = []
    pending = [(0, len(names))]
    while pending:
        low, high = pending.pop()
        if low < high:
            middle = (low + high) // 2
            found.append(names[middle])
            pending += [(low, middle), (middle + 1, high)]
    return found


def _of(ruleset: Mapping[Key, Section], place: tuple[Family, str], kind: str) -> Ruleset:
    return {key: ruleset[key] for key in sorted(ruleset) if key[:3] == (*place, kind)}


def _inserted(rule: str, number: int = 1) -> str:
    """An `-A CHAIN …` as `-I CHAIN 1 …`: in front, for a foreign rule before it could take our connections."""
    _unused, chain, rest = rule.split(" ", 2)
    return f"-I {chain} {number} {rest}"
