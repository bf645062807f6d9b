# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the kernel lists a ruleset: found out in a scratch namespace, and then kept.

Each section (a chain, a map) is asked about once, together with the bare names that it leads to. So what a change
costs goes with the sections that it changes, not with all that is declared; and each section has been accepted by a
kernel before this host's is touched. What only the whole can have wrong (iptables-nft takes sixteen jumps in a row) the
transaction itself finds out, and then changes nothing.

Of a map whose elements are all of one form, one element is asked about: the kernel accepts and lists the type, the
data, and a chain that it leads to. What the other elements could still have wrong is a key that is there twice, or a
chain that is not. The renderer makes neither; the transaction would find it out.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from ..packets import family_named
from .sections import Key, Ruleset, Section


class Loader(Protocol):
    """Whoever can load sections and list them again: an engine, or the way through somebody's FORWARD chain.

    It speaks of *units*, the pieces that the kernel takes in one transaction: the whole ruleset for nft, one family for
    iptables.
    """

    @property
    def title(self) -> str:
        """What its normal forms are kept under."""

    def identity(self) -> str:
        """What the normal form of a ruleset depends on: the program, and the kernel below it."""

    def texts(self, rendered: Ruleset) -> dict[str, str]:
        """What loads these sections, by unit."""

    def normal(self, unit: str, text: str) -> str | None:
        """How a kernel lists that text once it is loaded; None where there is no scratch namespace to ask it in.

        Raises `HostError` where it is refused.
        """

    def parse(self, unit: str, listing: str) -> Ruleset:
        """The sections of such a listing."""

    def listed(self) -> Ruleset:
        """What the kernel of this host holds of them now."""

    def uniform(self, key: Key, section: Section) -> bool:
        """Whether all lines are of one form, and listed as they are given where one of them is."""


#: Where a rule or an element names another section: a chain in nft, a map, set or object in nft, a chain in iptables.
_LEADS_TO = re.compile(r'\b(?:goto|jump) ([^\s;,}]+)|(?:@|\bct (?:timeout|helper) set ")([^\s;,}"]+)| -[jg] (\S+)$')

#: Of what is kept. It grows where the same lines mean something else: before 2, none said how a section is rendered.
_FORMAT = 2

#: Fewer take the kernel less time than another namespace does.
_MANY_LINES = 2000


@dataclass
class NormalForm:
    """`ruleset` is what the kernel will list once what was rendered is loaded.

    `known` is what the next run finds in its file. It is None where there was no namespace to ask in: the rendered form
    stands in for the listed one then, until it is `known_after_load` from the host.
    """

    engine: Loader
    rendered: Ruleset
    ruleset: Ruleset
    known: dict[str, Any] | None

    def known_after_load(self) -> dict[str, Any]:
        """`known`, also where only the host's own rules, now loaded, can tell."""
        if self.known is None:
            listed = self.engine.listed()
            found = {key: listed[key] for key in self.rendered if key in listed}
            self.known = _entry(self.engine, self.rendered, found, {})
        return self.known


class Part(NamedTuple):
    """Sections to ask about, and the text of a unit of the engine that has them."""

    keys: list[Key]
    unit: str
    text: str


@dataclass
class Question:
    """What is known of a rendered ruleset, and what the kernel has still to be asked about."""

    engine: Loader
    rendered: Ruleset
    known: Ruleset
    parts: list[Part]
    #: Sections of which one line is asked about for all.
    sampled: Ruleset
    #: What is known, as it is kept: by the words of each key.
    lines: dict[str, Any] = field(default_factory=dict)

    def answer(self) -> NormalForm:
        """Ask, about all parts side by side. Raises `HostError` where the kernel refuses one."""
        listed = self._ask(self.parts)
        if listed is not None:
            as_given = [
                key for key, sample in self.sampled.items() if key in listed and listed[key].body == sample.body
            ]
            listed.update((key, Section(listed[key].header, self.rendered[key].body)) for key in as_given)
            others = self._ask(_parts(self.engine, self.rendered, [*(self.sampled.keys() - set(as_given))]))
            if others is not None:
                found = {**self.known, **listed, **others}
                return NormalForm(
                    self.engine, self.rendered, found, _entry(self.engine, self.rendered, found, self.lines)
                )
        return NormalForm(self.engine, self.rendered, self.rendered, None)

    def _ask(self, parts: list[Part]) -> Ruleset | None:
        """The sections as they are listed; None where there is nowhere to ask."""
        found: Ruleset = {}
        with ThreadPoolExecutor(2) as pool:
            for listed in list(pool.map(self._listed, parts)):
                if listed is None:
                    return None
                found.update(listed)
        return found

    def _listed(self, part: Part) -> Ruleset | None:
        """The sections asked about. Those that they lead to are there as well, but bare."""
        listing = self.engine.normal(part.unit, part.text)
        if listing is None:
            return None
        listed = self.engine.parse(part.unit, listing)
        return {key: listed[key] for key in part.keys if key in listed}


def question(engine: Loader, rendered: Ruleset, known: Mapping[str, Any]) -> Question:
    """What has to be asked about `rendered`, as far as it is not `known` from the last run."""
    found, lines = _remembered(engine, rendered, known)
    missing = [key for key in rendered if key not in found]
    sampled = {
        key: Section(rendered[key].header, rendered[key].body[:1])
        for key in missing
        if len(rendered[key].body) > 1 and engine.uniform(key, rendered[key])
    }
    return Question(engine, rendered, found, _parts(engine, {**rendered, **sampled}, missing), sampled, lines)


def _parts(engine: Loader, ruleset: Ruleset, keys: list[Key]) -> list[Part]:
    return [
        Part(keys_of_half, unit, text)
        for keys_of_half in _halves(ruleset, keys)
        for unit, text in engine.texts(excerpt(ruleset, keys_of_half)).items()
    ]


def _halves(rendered: Ruleset, keys: list[Key]) -> list[list[Key]]:
    """These sections, in two parts of as many lines where they are many: a second processor takes one of them."""
    lines = list(itertools.accumulate(1 + len(rendered[key].body) for key in keys))
    if not keys or lines[-1] < _MANY_LINES:
        return [keys] if keys else []
    middle = bisect.bisect(lines, lines[-1] // 2)
    return [half for half in (keys[:middle], keys[middle:]) if half]


def ask(engine: Loader, rendered: Ruleset, known: Mapping[str, Any]) -> NormalForm:
    """The normal form of `rendered`. Raises `HostError` where the kernel refuses it."""
    return question(engine, rendered, known).answer()


def targets(line: str) -> list[tuple[bool, str]]:
    """The other sections that a rule or an element leads to, by name: whether each is a chain; else it is a map or set,
    which may have the name of a chain. Of iptables, built-in targets such as DNAT are among them."""
    return [(not looked_up, chain or looked_up or last) for chain, looked_up, last in _LEADS_TO.findall(line)]


def excerpt(ruleset: Ruleset, keys: Iterable[Key]) -> Ruleset:
    """These sections, and those that they lead to without what is in them."""
    found: Ruleset = {}
    by_name: dict[tuple[str, str, str], list[Key]] = {}
    for key in ruleset:
        by_name.setdefault((key.family, key.table, key.name), []).append(key)
    wanted = set(keys)
    for key in wanted:
        for line in ruleset[key].body:
            for is_chain, name in targets(line):
                for other in by_name.get((key.family, key.table, name), ()):
                    if (other.kind == "chain") == is_chain and other.kind != "jump":
                        found[other] = Section(ruleset[other].header, ())
    found.update((key, ruleset[key]) for key in wanted)
    return found


def _remembered(engine: Loader, rendered: Ruleset, known: Mapping[str, Any]) -> tuple[Ruleset, dict[str, Any]]:
    """What the last run found out about sections that are still rendered the same way, and listed by the same program
    on the same kernel; and the lines that are kept of these, where they are of this format."""
    found: Ruleset = {}
    lines: dict[str, Any] = {}
    entry = known.get(engine.title)
    if not isinstance(entry, dict) or entry.get("identity") != engine.identity():
        return found, lines
    sections = entry.get("sections")
    if not isinstance(sections, dict):
        return found, lines
    for key, section in rendered.items():
        name = " ".join(key)
        line = sections.get(name)
        if isinstance(line, list) and line[:1] == [_digest(section)]:
            found[key] = Section(tuple(line[1]), tuple(line[2]))
            if entry.get("format") == _FORMAT:
                lines[name] = line
    return found, lines


def known_rules(engine: Loader, known: Mapping[str, Any], rendered: bool = False) -> Ruleset | None:
    """What the last run has loaded, as the kernel lists it, or as it was `rendered`; None where that is not kept, or
    not by this program or, as rendered, in this format."""
    entry = known.get(engine.title)
    if not isinstance(entry, dict) or entry.get("identity") != engine.identity():
        return None
    if rendered and entry.get("format") != _FORMAT:
        return None
    try:
        if rendered:
            return {_key(name): Section(*map(tuple, line[-2:])) for name, line in entry["sections"].items()}
        return {_key(name): Section(tuple(line[1]), tuple(line[2])) for name, line in entry["sections"].items()}
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None


def _key(words: str) -> Key:
    family, table, kind, name = words.split(" ", 3)
    return Key(family_named(family) if family else "", table, kind, name)


def _entry(engine: Loader, rendered: Ruleset, found: Ruleset, lines: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a normal form; `lines` as far as that is known already."""
    sections = {}
    for key, section in found.items():
        name = " ".join(key)
        sections[name] = lines[name] if name in lines else _line(rendered[key], section)
    return {"format": _FORMAT, "identity": engine.identity(), "sections": sections}


def _line(rendered: Section, section: Section) -> list[Any]:
    """A digest of a section as it is rendered, its normal form, and how it is rendered where that differs."""
    forms = [section] if section == rendered else [section, rendered]
    return [_digest(rendered), *(list(part) for form in forms for part in (form.header, form.body))]


def _digest(section: Section) -> str:
    text = "\n".join([*section.header, "", *section.body])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
