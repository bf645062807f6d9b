# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The nftables engine: pure rendering joined to the program nft."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ..errors import HostError
from ..host import nf_tables, processes, revision
from ..host.processes import Command
from ..host.removed import Removed
from ..model.choices import EngineName
from ..model.clients import KnownClients
from ..model.entities import Backend, Config, Service
from ..model.hash_keys import Opening
from ..model.helpers import module
from ..model.slots import dealt_slots
from ..model.surroundings import NOWHERE, Surroundings
from ..packets import FAMILIES, Family
from ..ruleset.sections import Key, Ruleset, Section, compare, families_of
from ..ruleset.transaction import Kind, Transaction
from . import batch, hashes, render
from .clients import of_nftables
from .counters import added, concerned, count_rules, count_slots
from .delta import delta
from .layout import lay_out
from .names import slot_map
from .program import Nft
from .render import NAT, SomeServices
from .text import TABLE, count, counts_elsewhere, full, in_parts, loadable, parse_listing, remembered, uniform

#: Maps with a counter per element, and NAT from named maps with ports: nft 1.0.0, Linux 5.13.
NFT_MINIMUM = (1, 0, 0)
LINUX_MINIMUM = (5, 13)


class NftablesEngine:
    """Rules in tables of our own, `ip natlb` and `ip6 natlb`. See `model.engine.Engine` for what has no word here."""

    name: EngineName = "nftables"
    title = "nftables"
    nat_priorities = NAT
    is_numbered = True
    shares_tables = loads_modules = False

    def __init__(self, nft: Nft | None = None) -> None:
        self.nft = nft or Nft()

    def identity(self) -> str:
        return self.nft.identity()

    def dealt(self, service: Service, family: Family) -> Mapping[str, int]:
        return dealt_slots(service, family)

    def render(self, config: Config, around: Surroundings = NOWHERE) -> Ruleset:
        return render.render(config, around)

    def some_services(self, config: Config, around: Surroundings = NOWHERE) -> SomeServices:
        return SomeServices(lay_out(config), around)

    def texts(self, rendered: Ruleset) -> dict[str, str]:
        return {"nft": full(rendered)}

    def normal(self, _unit: str, text: str) -> str | None:
        return self.nft.normal(text)

    def parse(self, _unit: str, listing: str) -> Ruleset:
        return parse_listing(listing)

    def _listing(self, counters: bool) -> str:
        tables = [pair for pair in nf_tables.tables() if pair[1] == TABLE and pair[0] in FAMILIES]
        return "".join(self.nft.list_table(family, table, counters) for family, table in tables)

    def _slots(self) -> Iterator[tuple[str, bytes, bytes, int]]:
        """Protocol, key, data and packets of each slot."""
        for family in FAMILIES:
            for slots in filter(None, map(slot_map, nf_tables.sets(family, TABLE))):
                for element in nf_tables.counting_elements(family, TABLE, slots.name):
                    yield (slots.protocol, *element)

    def listed(self) -> Ruleset:
        """What the kernel holds of ours now."""
        return parse_listing(self._listing(counters=False))

    def uniform(self, key: Key, section: Section) -> bool:
        """Whether all lines are of one form, and listed as they are given where one of them is."""
        return uniform(key, section)

    def overtaken(self, live: Ruleset, _rendered: Ruleset, _by: Collection[tuple[str, Family]]) -> Ruleset:
        """All: they have chains of their own, which others do not pass packets by."""
        return live

    def plan(self, live: Ruleset, normal: Ruleset, rendered: Ruleset) -> Transaction:
        if not compare(live, normal):
            return Transaction("none", {})
        present = families_of(live)
        if not normal:
            return Transaction("remove", {"nft": full({}, present)})
        if not live:
            return _numbered(in_parts(rendered), "replace")
        return _numbered(delta(live, normal, rendered))

    def delta(self, live: Ruleset, wanted: Ruleset) -> Transaction:
        """The same between some sections of each, with all others left as they are."""
        return _numbered(delta(live, wanted, wanted))

    def commands(self, transaction: Transaction) -> list[Command]:
        """What carries it out."""
        modules = [(line, "") for line in _modules(transaction.texts.values())]
        return [*modules, *self.nft.load(transaction.texts.values())]

    def made_at_once(self, transaction: Transaction, known: Ruleset, generation: int) -> Transaction:
        """Transactions that `batch` understands, up to the first that it does not, or that the kernel refuses."""
        composer = batch.Composer(known, lambda family, chain: nf_tables.rules(family, TABLE, chain))
        left = dict(transaction.texts)
        for done, (unit, text) in enumerate(transaction.texts.items()):
            try:
                nf_tables.commit(composer.messages(text), revision.later(generation, done))
            except batch.NotUnderstoodError:
                break
            except OSError as error:
                if error.errno == errno.ERESTART:
                    raise HostError("somebody else has changed rules of nf_tables in the meantime") from error
                # nft says why, or finds a way.
                break
            del left[unit]
        return Transaction(transaction.kind if left else "none", left)

    def is_gone(self) -> bool:
        """Whether there is no table of ours."""
        return not any(table == TABLE for _family, table in nf_tables.tables())

    def missing(self, rules: Ruleset) -> Ruleset:
        """Whole tables of ours."""
        there = {family for family, table in nf_tables.tables() if table == TABLE}
        return {key: section for key, section in rules.items() if key.family not in there}

    def commits(self, transaction: Transaction) -> int:
        """How many commits of nf_tables that makes."""
        return len(transaction.texts)

    def fallback(self, transaction: Transaction, rendered: Ruleset) -> Transaction | None:
        """What a delta did not foresee, a replacement of our tables puts right, in one transaction too."""
        if transaction.kind != "delta":
            return None
        text = full(rendered) + remembered(rendered, self._listing(counters=True))
        return Transaction("replace", {"nft": text})

    def boot(self, rendered: Ruleset, directory: str) -> tuple[dict[str, str], list[str]]:
        """Files by name, and the shell lines that load them."""
        text = full(rendered)
        return {"ruleset.nft": text}, [*_modules([text]), f"{self.nft.path} -f {directory}/ruleset.nft"]

    def undo(self, live: Ruleset, wanted: Ruleset) -> list[Command]:
        """What turns what a run wants into what is live before it.

        Raises `HostError` where nft would not take back what it lists.
        """
        text = full(loadable(live), families_of([*live, *wanted]))
        self.nft.check(text)
        return self.nft.load([text])

    def undo_in_place(self, live: Ruleset, now: Ruleset) -> list[Command]:
        """The same, but by what differs only, so that our tables keep their place and what packets have filled."""
        back = loadable(live)
        return self.nft.load(delta(now, live, back)) if live and now else self.undo(live, now)

    def residue(self) -> str:
        """What is left of a change that was undone: nothing, since the tables are ours."""
        return ""

    def counters(self, config: Config) -> tuple[dict[tuple[str, str], int], KnownClients]:
        """New connections by (service, backend key), as counted since the rules were loaded, and the clients known."""
        if not any(map(counts_elsewhere, config.services)):
            return count_slots(config, self._slots()), of_nftables(config, "")
        listing = self._listing(counters=True)
        return count(config, listing), of_nftables(config, listing)

    def counted_by(self, removed: Removed, config: Config) -> dict[tuple[str, str], int]:
        """As those had counted that are gone."""
        elements = [
            (slots.protocol, *element)
            for (table, name), found in removed.elements.items()
            for slots in [slot_map(name)]
            if table == TABLE and slots
            for element in found
        ]
        return added(
            count_slots(concerned(config, elements), elements),
            count_rules(config, [(rule.chain, rule.packets) for rule in removed.rules if rule.table == TABLE]),
        )

    def picked(self, service: Service, opening: Opening) -> Backend | None:
        """The backend that the method picks; None where turns, chance, or a port that is not known do."""
        return hashes.picked(service, opening)

    def retained(self, _wanted: Ruleset) -> list[str]:
        """Nothing: no rule leads from one table into another."""
        return []

    def refusals_needing_route(self, _config: Config) -> set[str]:
        """None: a packet is refused before it is routed."""
        return set()

    def warnings(self, _config: Config) -> list[str]:
        """What this engine cannot do as declared, and does otherwise."""
        return []


def _modules(texts: Iterable[str]) -> list[str]:
    """The line that loads the modules that translate for the helpers of new objects. The kernel loads those that read
    by itself. Where there is none to load (a container, a kernel that has it built in), that is no error."""
    helpers = sorted(set(re.findall(r'type "(\w+)" protocol', "".join(texts))))
    modules = " ".join(map(module, helpers))
    return [f"modprobe --quiet --all {modules} 2> /dev/null || :"] if modules else []


def _numbered(texts: Sequence[str], kind: Kind = "delta") -> Transaction:
    return Transaction(kind if texts else "none", {f"nft {number}": text for number, text in enumerate(texts, 1)})


def linux_version() -> tuple[int, ...]:
    """(major, minor) of the running kernel."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def nft_problem() -> str | None:
    """Why this host's nft cannot be used; None where it can."""
    path = processes.find("nft")
    if path is None:
        return "nft is not installed (package nftables)"
    version = tuple(int(number) for number in re.findall(r"\d+", processes.version(path))[:3])
    if version < NFT_MINIMUM:
        return f"nft {'.'.join(map(str, version))} is too old ({'.'.join(map(str, NFT_MINIMUM))} is needed)"
    if linux_version() < LINUX_MINIMUM:
        return f"Linux {os.uname().release} is too old ({'.'.join(map(str, LINUX_MINIMUM))} is needed)"
    return None
