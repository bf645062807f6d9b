# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A ruleset that is known to be live, and what changes in it where only some services do.

The rules of a few services are rendered as if there were no others, as they are and as they are to be. What differs is
compared with the whole: a chain has to be there as rendered, so that no other service has rules in it. A chain or map
that they no longer need goes once nothing leads to it; that is counted, as in the kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from .normal_form import targets
from .sections import UNORDERED, Key, Ruleset, Section

#: Family, table, whether it is a chain, and the name.
_Place = tuple[str, str, bool, str]


class Change(NamedTuple):
    """The sections that change. Of maps and sets these are not all elements, but those of the services concerned.

    `leads` is how many more lines lead to each place then; fewer are below zero.
    """

    live: Ruleset
    wanted: Ruleset
    leads: Mapping[_Place, int]


class KnownRules:
    """The rules of a whole configuration, as rendered."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._whole = dict(ruleset)
        #: How many lines lead to each place; None until they are counted.
        self._leads: Counter[_Place] | None = None

    @property
    def ruleset(self) -> Ruleset:
        return self._whole

    def change(self, before: Ruleset, after: Ruleset) -> Change | None:
        """From the rules of some services, rendered alone, to those that they are to have.

        None where more changes than what is theirs alone: then the whole has to be rendered.
        """
        found = Change({}, {}, {})
        for key in (*(key for key in before if before[key] != after.get(key)), *(after.keys() - before.keys())):
            one = self._of_chain if key.kind == "chain" else self._of_elements if key.kind in UNORDERED else None
            if one is None or not one(key, before.get(key), after.get(key), found):
                return None
        return found._replace(leads=self._keep_what_is_led_to(found))

    def made(self, change: Change) -> None:
        """Take note that a change is live."""
        if self._leads is not None:
            self._leads.update(change.leads)
        for key in {**change.live, **change.wanted}:
            was, now = change.live.get(key), change.wanted.get(key)
            if now is None:
                del self._whole[key]
            elif key.kind == "chain" or key not in self._whole:
                self._whole[key] = now
            else:
                had = set(self._whole[key].body) - set(was.body if was else ())
                self._whole[key] = Section(now.header, tuple(sorted(had | set(now.body))))

    def _of_chain(self, key: Key, was: Section | None, now: Section | None, found: Change) -> bool:
        whole = self._whole.get(key)
        if was is None and whole is not None:
            return whole == now
        if was is not None:
            if whole != was:
                return False
            found.live[key] = was
        if now is not None:
            found.wanted[key] = now
        return True

    def _of_elements(self, key: Key, was: Section | None, now: Section | None, found: Change) -> bool:
        whole = self._whole.get(key)
        had, has = (frozenset(section.body if section else ()) for section in (was, now))
        if whole is None:
            # It is new.
            if was is None and now is not None:
                found.wanted[key] = now
            return was is None
        if any(section is not None and section.header != whole.header for section in (was, now)):
            return False
        everything = set(whole.body)
        if not had <= everything:
            return False
        if was is None and has and has <= everything:
            # Somebody else has the same one.
            return has == everything
        if key.kind == "set" and (had - has or (had != has and "flags interval" in whole.header)):
            # Several services may have put the same element there, or the kernel takes none that overlaps with theirs.
            return False
        found.live[key] = Section(whole.header, tuple(sorted(had)))
        if now is not None or had != everything:
            found.wanted[key] = Section(whole.header, tuple(sorted(has)))
        return True

    def _keep_what_is_led_to(self, found: Change) -> Mapping[_Place, int]:
        """What would go stays as long as something that stays leads to it. Returns the change's `leads`."""
        while True:
            leads = self._difference(found)
            gone = found.live.keys() - found.wanted.keys()
            kept = [key for key in gone if self.count()[_place(key)] + leads[_place(key)] > 0]
            if not kept:
                return leads
            for key in kept:
                found.wanted[key] = found.live[key]

    def count(self) -> Counter[_Place]:
        """Count the lines that lead to each place, where that is not done yet: it takes as long as to render."""
        if self._leads is None:
            self._leads = Counter()
            for key, section in self._whole.items():
                self._leads.update(_led_to(key, section.body))
        return self._leads

    @staticmethod
    def _difference(change: Change) -> Counter[_Place]:
        found: Counter[_Place] = Counter()
        for sections, sign in ((change.live, -1), (change.wanted, 1)):
            for key, section in sections.items():
                for place in _led_to(key, section.body):
                    found[place] += sign
        return found


def _led_to(key: Key, lines: Iterable[str]) -> Iterator[_Place]:
    for line in lines:
        for is_chain, name in targets(line):
            yield key.family, key.table, is_chain, name


def _place(key: Key) -> _Place:
    return key.family, key.table, key.kind == "chain", key.name
