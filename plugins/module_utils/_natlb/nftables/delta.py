# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the tables that are live to those that are wanted: transactions of nft that touch what differs and no more.

What packets have taught a set (affinity, limits) and what rules and slots have counted stays, unless it is that very
set, chain or slot that changes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from ..packets import Family
from ..ruleset.normal_form import targets
from ..ruleset.sections import Key, Ruleset, Section, families_of
from .names import is_first_slot, slot_map
from .text import TABLE, Lines, element_lines, full, kind_words, load_order

#: Where a rule looks up a map or set, or takes an object.
_LOOKS_UP = re.compile(r'(?:@|\bct (?:timeout|helper) set ")([^\s;,}"]+)')
#: To take one element of a set of intervals away, the kernel walks the others (nft_set_pipapo.c): 17 ns for each of
#: them here, beside 25 µs to add one. So from about 1,500 deletions on, the set is made anew with what stays.
_DELETION_BY_ADDITION = 1500
#: Below this product of deletions and elements it is a matter of milliseconds either way.
_FEW_STEPS = 5_000_000
#: The same where keys are networks alone. There nft itself walks the others (`setelem_delete` in its src/intervals.c):
#: 2.9 µs for each of them, beside 43 µs to add one.
_DELETION_OF_NETWORK_BY_ADDITION = 15
_FEW_STEPS_OF_NETWORKS = 30_000


def delta(live: Ruleset, normal: Ruleset, rendered: Ruleset) -> list[str]:
    """Transactions that turn `live` into `normal`, which is `rendered` as the kernel lists it.

    One transaction makes the change; one before it only adds what nothing leads to yet, and one after it takes away
    what nothing leads to any more. The reason: a packet on its way reads the rules of the generation in which it began,
    but the elements of the one that is current (nf_tables_api.c). In one transaction such a packet could be led to a
    chain that has no rules in its generation, or to slots that have moved to another map, and would not be translated.
    Chains that elements of intervals led to are emptied in a transaction of their own: from Linux 6.17 on a packet of
    the new generation still finds the old ones until all of the transaction is done (nft_set_pipapo.c, "don't check
    genbit from packetpath lookups").
    Also, kernels before 6.2 cannot delete a chain in the transaction that takes the last element naming it.
    """
    tables = [key for key in normal if key.kind == "table" and key in live and live[key] != normal[key]]
    # Somebody has put it to sleep, say. It is replaced as a whole.
    replaced = families_of(tables)
    change = _Change(_of(live, replaced, False), _of(normal, replaced, False), rendered)
    switch = change.switch() + (full(_of(rendered, replaced, True), replaced).splitlines() if replaced else [])
    texts = [change.additions(), switch, change.emptied(), change.removals()]
    return ["\n".join(lines) + "\n" for lines in texts if lines]


def _of(ruleset: Ruleset, families: Sequence[Family], inside: bool) -> Ruleset:
    """What is of these families, or what is not."""
    return {key: section for key, section in ruleset.items() if (key.family in families) == inside}


@dataclass
class _Change:
    """What differs, sorted by how it is to be carried out."""

    live: Ruleset
    normal: Ruleset
    rendered: Ruleset
    gone_tables: list[str] = field(init=False)
    gone: list[Key] = field(init=False)
    new: list[Key] = field(init=False)
    #: Sets and chains whose declaration differs, or which it would take too long to empty: made anew as a whole.
    remade: list[Key] = field(init=False)
    #: What keeps its declaration, but not its rules or elements.
    changed: list[Key] = field(init=False)
    #: Of these, what is emptied and filled at once. One that is made anew has nothing for a packet that is at a
    #: rule of before.
    refilled: list[Key] = field(init=False)
    #: Chains that go, and that a packet may be led to a moment longer.
    lingering: list[Key] = field(init=False)

    def __post_init__(self) -> None:
        live, normal = self.live, self.normal
        # In one order, whatever the order of the sections.
        self.gone_tables = sorted(key.family for key in live if key.kind == "table" and key not in normal)
        # A table takes with it what is in it.
        self.gone = sorted(key for key in live if key not in normal and key.family not in self.gone_tables)
        self.new = sorted((key for key in normal if key not in live), key=load_order)
        kept = sorted(key for key in normal if key in live and live[key] != normal[key])
        self.remade = sorted((key for key in kept if self._is_remade(key)), key=load_order)
        names = {(key.family, key.name) for key in self.remade if key.kind != "chain"}
        using = sorted(key for key in normal if key in live and self._uses(key, names)) if names else []
        self.changed = [key for key in dict.fromkeys([*kept, *using]) if key not in self.remade]
        self.refilled = [key for key in self.changed if _is_refilled(live[key]) and _takes_long(live[key], normal[key])]
        self.lingering = self._lingering()

    def _is_remade(self, key: Key) -> bool:
        live, normal = self.live[key], self.normal[key]
        if live.header != normal.header:
            return True
        return not _is_refilled(live) and _takes_long(live, normal)

    def _lingering(self) -> list[Key]:
        """The chains that go to which elements lead of maps of intervals that stay, and those behind them. None of a
        family where one of them looks up what is made anew, or a map that goes and names chains."""
        gone = {(key.family, key.name): key for key in self.gone if key.kind == "chain"}
        waiting = [
            (key.family, name)
            for key in (self.changed if gone else ())
            if key.kind == "map" and _intervals(self.live[key])
            for element in set(self.live[key].body) - set(self.normal[key].body)
            for _is_chain, name in targets(element)
        ]
        found: dict[Key, None] = {}
        while waiting:
            place = waiting.pop()
            if place in gone and gone[place] not in found:
                found[gone[place]] = None
                waiting += [(place[0], name) for rule in self.live[gone[place]].body for _is, name in targets(rule)]
        held = {(key.family, key.name) for key in self.remade}
        held |= {(key.family, key.name) for key in self.gone if key.kind == "map" and _names_chains(self.live[key])}
        tied = {key.family for key in found if self._uses(key, held)}
        return sorted(key for key in found if key.family not in tied)

    def _uses(self, key: Key, names: Collection[tuple[str, str]]) -> bool:
        """Whether a chain looks up one of these: its rules have to let go of it before it can be made anew."""
        now = self.normal.get(key)
        rules = [*self.live[key].body, *(now.body if now else ())] if key.kind == "chain" else []
        return any((key.family, name) in names for rule in rules for name in _LOOKS_UP.findall(rule))

    # -- the three transactions --------------------------------------------------------------------------------

    def additions(self) -> Lines:
        """What nothing leads to yet: new sections, and new slots."""
        lines = self._filled(self.new)
        for key in self._slot_maps():
            lines += element_lines("add", key, sorted(self._new_slots(key)))
        return lines

    def switch(self) -> Lines:
        """What changes at once."""
        early = [key for key in self.gone if not self._is_late(key)]
        chains = [key for key in [*self.changed, *early, *self.remade] if key.kind == "chain"]
        lines: Lines = [f"flush chain {_where(key)}" for key in chains]
        lines += [f"flush {key.kind} {_where(key)}" for key in self.refilled]
        for key in [*self.changed, *early]:
            if key not in self.refilled:
                lines += element_lines("delete", key, self._deleted(key))
        lines += _deletions([key for key in [*early, *self.remade] if key.kind != "chain" or key in self.remade])
        lines += self._filled(self.remade)
        for key in self.changed:
            if key.kind == "chain":
                lines += self._rules(key)
            else:
                had = self._new_slots(key) if key in self.refilled else set(self.live[key].body) | self._new_slots(key)
                lines += element_lines("add", key, [e for e in self.normal[key].body if e not in had])
        return lines + [f"delete table {family} {TABLE}" for family in self.gone_tables]

    def emptied(self) -> Lines:
        """Chains that let go of what they lead to."""
        return [f"flush chain {_where(key)}" for key in self.lingering]

    def removals(self) -> Lines:
        """What nothing leads to any more."""
        late = [key for key in self.gone if self._is_late(key) and key not in self.lingering]
        lines: Lines = [f"flush chain {_where(key)}" for key in late if key.kind == "chain"]
        for key in self._slot_maps():
            lines += element_lines("delete", key, sorted(self._left_slots(key)))
        return lines + _deletions([key for key in self.gone if self._is_late(key) or key.kind == "chain"])

    def _is_late(self, key: Key) -> bool:
        """Whether a section that goes is still looked up by packets that began before the switch."""
        if key.kind != "chain" and self.lingering:
            rules = (rule for chain in self.lingering if chain.family == key.family for rule in self.live[chain].body)
            if any(key.name in _LOOKS_UP.findall(rule) for rule in rules):
                return True
        return _is_slots(key) or is_first_slot(key.name) or key in self.lingering

    # -- parts of them -----------------------------------------------------------------------------------------

    def _filled(self, keys: Iterable[Key]) -> Lines:
        """Sections that are not there yet: declared first, since they lead to each other."""
        keys = list(keys)
        lines: Lines = [_declaration(key, self.rendered[key]) for key in keys]
        for key in keys:
            if key.kind == "chain":
                lines += self._rules(key)
            else:
                lines += element_lines("add", key, self.normal[key].body)
        return lines

    def _rules(self, key: Key) -> Lines:
        return [f"add rule {_where(key)} {rule}" for rule in self.rendered[key].body]

    def _deleted(self, key: Key) -> list[str]:
        """Elements that the switch takes away one by one. A set that goes takes its own along, but an element that
        names a chain has to let go of it (before 6.4 that waits for the end of the set, which is some time later)."""
        body = self.live[key].body
        if key.kind == "chain":
            return []
        if key not in self.normal:
            quick = not _intervals(self.live[key]) or len(body) ** 2 <= _FEW_STEPS
            return list(body) if quick and _names_chains(self.live[key]) else []
        keep = set(self.normal[key].body) | self._left_slots(key)
        return [element for element in body if element not in keep]

    def _slot_maps(self) -> list[Key]:
        return [key for key in self.changed if _is_slots(key)]

    def _new_slots(self, key: Key) -> set[str]:
        """Elements whose slot does not exist yet: no rule that is live picks it."""
        if not _is_slots(key):
            return set()
        taken = {element.partition(" : ")[0] for element in self.live[key].body}
        return {element for element in self.normal[key].body if element.partition(" : ")[0] not in taken}

    def _left_slots(self, key: Key) -> set[str]:
        """Elements of services that the map has no slots of any more: they are gone, or live in another map."""
        if not _is_slots(key):
            return set()
        staying = {_service(element) for element in self.normal[key].body}
        return {element for element in self.live[key].body if _service(element) not in staying}


def _is_slots(key: Key) -> bool:
    return slot_map(key.name) is not None


def _takes_long(live: Section, normal: Section) -> bool:
    """Whether to take the elements away that go takes longer than to add all that are wanted."""
    if not _intervals(live):
        return False
    alone = _is_refilled(live)
    few = _FEW_STEPS_OF_NETWORKS if alone else _FEW_STEPS
    steps = len(set(live.body) - set(normal.body)) * len(live.body)
    by_addition = _DELETION_OF_NETWORK_BY_ADDITION if alone else _DELETION_BY_ADDITION
    return steps > few and steps > by_addition * len(normal.body)


def _is_refilled(section: Section) -> bool:
    """Whether the keys are networks alone."""
    return _intervals(section) and not any(" . " in line for line in section.header)


def _intervals(section: Section) -> bool:
    return any(line.startswith("flags ") and "interval" in line for line in section.header)


def _names_chains(section: Section) -> bool:
    return any(line.startswith("type") and line.endswith(": verdict") for line in section.header)


def _service(element: str) -> str:
    """Address and port of a slot."""
    return element.partition(" : ")[0].rpartition(" . ")[0]


def _deletions(gone: Sequence[Key]) -> Lines:
    return [f"delete {kind_words(key)} {_where(key)}" for key in sorted(gone, key=load_order, reverse=True)]


def _where(key: Key) -> str:
    return f"{key.family} {TABLE}" if key.kind == "table" else f"{key.family} {TABLE} {key.name}"


def _declaration(key: Key, section: Section) -> str:
    inner = "; ".join(line.rstrip(";") for line in section.header)
    return f"add {kind_words(key)} {_where(key)}" + (f" {{ {inner}; }}" if inner else "")
