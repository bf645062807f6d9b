# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The iptables engine: pure rendering joined to the programs of iptables."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from ..errors import HostError
from ..host import nf_tables
from ..host.proc import recent_list_size
from ..host.processes import Command
from ..host.removed import Removed
from ..model.choices import EngineName, Variant
from ..model.clients import KnownClients
from ..model.entities import Backend, Config, Service
from ..model.hash_keys import Opening
from ..model.surroundings import NOWHERE, Surroundings
from ..packets import FAMILIES, Family, family_named, family_of
from ..ruleset.sections import Key, Ruleset, Section, compare
from ..ruleset.transaction import Kind, Transaction
from . import clients, counters, foreign_jumps, forward_rules, redispatch, render, restore
from .dispatch import PREFIX
from .packet_hash import hashed_slot
from .program import Iptables, legacy_tables
from .render import Sharing, SomeServices
from .service import dealt, hashed_slots

_OVERTAKEN = ("# stands behind rules that let connections pass",)


class IptablesEngine:
    """Rules in chains of our own in the tables that all share."""

    name: EngineName = "iptables"
    nat_priorities: ClassVar[Mapping[str, int]] = {"prerouting": -100, "postrouting": 100}
    #: `iptables-legacy` asks by a socket option that is not there without its module.
    shares_tables = loads_modules = True

    def __init__(self, variant: Variant | None, program: Iptables | None = None) -> None:
        self.program = program or Iptables(variant)
        #: Of the first listing: where jumps of ours stand, and which tables there are, by family.
        self._places: dict[Key, tuple[int, ...]] | None = None
        self._tables: dict[Family, set[str]] = {}
        #: (family, table) of those that nft made, and iptables neither lists nor should write to.
        self._strange: set[tuple[Family, str]] = set()
        self._held: foreign_jumps.Held = {}

    @property
    def title(self) -> str:
        return self.program.title

    @property
    def is_numbered(self) -> bool:
        return self.program.is_nft

    def identity(self) -> str:
        return self.program.identity()

    def dealt(self, service: Service, family: Family) -> Mapping[str, int]:
        return dealt(service, family)

    def render(self, config: Config, around: Surroundings = NOWHERE) -> Ruleset:
        return render.render(config, around)

    def some_services(self, config: Config, around: Surroundings = NOWHERE) -> SomeServices:
        return SomeServices(config.mark_mask, around, Sharing.of(config))

    def texts(self, rendered: Ruleset) -> dict[str, str]:
        return {family: restore.full(rendered, family) for family in FAMILIES if _has(rendered, family)}

    def normal(self, unit: str, text: str) -> str | None:
        return self.program.normal(family_named(unit), text)

    def parse(self, unit: str, listing: str) -> Ruleset:
        return restore.parse_save(family_named(unit), listing)

    def _listing(self, family: Family, counters: bool) -> str:
        """Asking iptables-legacy-save about tables that nobody uses would make them."""
        if self.program.variant == "legacy" and not legacy_tables(family):
            return ""
        return self.program.save(family, counters)

    def uniform(self, _key: Key, _section: Section) -> bool:
        """No: each rule is listed in a form of its own."""
        return False

    def listed(self) -> Ruleset:
        """What the kernel holds of ours now, without the way through FORWARD."""
        found: Ruleset = {}
        places: dict[Key, tuple[int, ...]] = {}
        tables: dict[Family, set[str]] = {}
        for family in FAMILIES:
            text = self._listing(family, counters=False)
            found.update(restore.parse_save(family, text))
            places.update(restore.jump_places(family, text))
            tables[family] = restore.tables(text)
            self._strange |= {(family, table) for table in restore.incompatible(text)}
        if self._places is None:
            self._places, self._tables = places, tables
        found, held = foreign_jumps.split(found)
        self._held = {key: rules for key, rules in held.items() if not forward_rules.is_here(key)}
        return forward_rules.split(found)[0]

    def overtaken(self, live: Ruleset, rendered: Ruleset, by: Collection[tuple[str, Family]]) -> Ruleset:
        """Refusals that are held back are part of connections that are let pass."""
        jumps = {
            (family, "filter", "jump", "FORWARD")
            for program, family in by
            if program == self.program.program(family) and (family, "filter", "chain", redispatch.ROOT) in rendered
        }
        return {key: Section(_OVERTAKEN, section.body) if key in jumps else section for key, section in live.items()}

    def plan(self, live: Ruleset, normal: Ruleset, rendered: Ruleset) -> Transaction:
        for family, table in sorted(self._strange.intersection(key[:2] for key in normal)):
            raise HostError(
                f"{self.program.program(family)} cannot be used here: table {family} {table} was made with nft; "
                f"iptables cannot list it, and must not change it; set engine: nftables, or rename that table"
            )
        if not compare(live, normal):
            return Transaction("none", {})
        if not normal:
            return Transaction("remove", restore.remove(live, self._held))
        kind: Kind = "delta" if live else "replace"
        return Transaction(kind, restore.delta(live, normal, rendered, held=self._held))

    def delta(self, live: Ruleset, wanted: Ruleset) -> Transaction:
        """The same between some sections of each, with all others left as they are."""
        texts = restore.delta(live, wanted, wanted, held=self._held)
        return Transaction("delta" if texts else "none", texts)

    def commands(self, transaction: Transaction) -> list[Command]:
        """What carries it out."""
        return self.program.restore(transaction.texts)

    def made_at_once(self, transaction: Transaction, _known: Ruleset, _generation: int) -> Transaction:
        """Nothing: iptables-restore asks for little more than it changes, and the rest is the kernel's time."""
        return transaction

    def is_gone(self) -> bool:
        """Whether there is no chain of ours."""
        return not any(name.startswith(PREFIX) for name in nf_tables.chain_names())

    def missing(self, rules: Ruleset) -> Ruleset:
        """Jumps that are gone, with all chains of their tables: who takes the one away has emptied the others, too."""
        jumps = {key: section for key, section in rules.items() if key.kind == "jump" and not _leads(key, section)}
        tables = {key[:2] for key in jumps}
        chains = {key: section for key, section in rules.items() if key.kind == "chain" and key[:2] in tables}
        return {**chains, **jumps}

    def commits(self, transaction: Transaction) -> int:
        """How many commits of nf_tables that makes."""
        return sum(map(self.program.commits, transaction.texts.values()))

    def fallback(self, _transaction: Transaction, _rendered: Ruleset) -> Transaction | None:
        """None: a replacement would not know what to remove."""
        return None

    def boot(self, rendered: Ruleset, directory: str) -> tuple[dict[str, str], list[str]]:
        """Files by name, and the shell lines that load them: chains in one step, then each jump where it is missing."""
        files: dict[str, str] = {}
        lines: list[str] = []
        for family in FAMILIES:
            if not _has(rendered, family):
                continue
            name = f"ruleset.{family}tables"
            chains = {key: section for key, section in rendered.items() if key.kind == "chain" and key.family == family}
            files[name] = restore.delta({}, chains, chains)[family]
            lines.append(f"{self.program.path(family, 'restore')} --noflush --wait 30 {directory}/{name}")
            program = f"{self.program.path(family)} --wait 30"
            for key in sorted(rendered):
                if key.family == family and key.kind == "jump":
                    for jump in rendered[key].body:
                        words = jump.split(" ", 2)[2]
                        check = f"{program} -t {key.table} -C {key.name} {words} 2>/dev/null"
                        lines.append(f"{check} || {program} -t {key.table} -I {key.name} 1 {words}")
        return files, lines

    def undo(self, live: Ruleset, wanted: Ruleset) -> list[Command]:
        """What turns what a run wants into what is live before it."""
        return self.program.restore(restore.delta(wanted, live, live, held=self._held))

    def undo_in_place(self, live: Ruleset, now: Ruleset) -> list[Command]:
        """The same, with each jump at its former place among the foreign rules."""
        return self.program.restore(restore.delta(now, live, live, self._places, self._held))

    def residue(self) -> str:
        """What is left of a change that was undone: tables that iptables makes for whoever asks, and never removes."""
        new = [
            f"{self.program.program(family)} {table}"
            for family in FAMILIES
            for table in sorted(restore.tables(self._listing(family, counters=False)) - self._tables[family])
        ]
        return f"new tables stay, without rules: {', '.join(new)}" if new else ""

    def counters(self, config: Config) -> tuple[dict[tuple[str, str], int], KnownClients]:
        """New connections by (service, backend key), as counted since the rules were loaded, and the clients known."""
        found: dict[tuple[str, str], int] = {}
        for family in FAMILIES:
            found.update(counters.count(config, family, self._listing(family, counters=True)))
        return found, clients.read(config)

    def counted_by(self, removed: Removed, config: Config) -> dict[tuple[str, str], int]:
        """As those had counted that are gone."""
        return counters.count_removed(config, removed.rules)

    def picked(self, service: Service, opening: Opening) -> Backend | None:
        """The backend that the method picks; None where turns, chance, or a port that is not known do."""
        family = family_of(opening.client)
        key = service.hash_key(family)
        table = hashed_slots(service, family) if key else []
        if key is None or not table or (key.with_port and opening.client_port is None):
            return None
        return table[hashed_slot(key, opening, service.seed(), len(table))]

    def retained(self, wanted: Ruleset) -> list[str]:
        programs = {family: self.program.program(family) for family in FAMILIES}
        return [*foreign_jumps.warnings(self._held, wanted, programs)]

    def refusals_needing_route(self, config: Config) -> set[str]:
        """The names of services whose refusals need a route to the listen address."""
        return {s.name for s in config.services for family in s.families() if render.refuses(s, family)}

    def warnings(self, config: Config) -> list[str]:
        """What this engine cannot do as declared, and does otherwise."""
        found = [_other_port(service) for service in config.services if _may_meet_another_port(service)]
        if any(service.affinity_s for service in config.services):
            size = recent_list_size()
            said = (
                f"affinity on iptables remembers {size} clients per backend (xt_recent's ip_list_tot) and forgets the "
            )
            found.append(f"{said}oldest beyond that; the nftables engine remembers 65536")
        return found


def _may_meet_another_port(service: Service) -> bool:
    """Where DNAT shifts ports, the kernel takes the next one of the range if a connection would be the same as another
    one to the backend (nf_nat_l4proto_unique_tuple). With another source than the client's it cannot be."""
    if not service.source_nat.shows_clients or not any(backend.shift for backend in service.backends):
        return False
    places = {(frontend.family, frontend.address) for frontend in service.frontends()}
    return any(address is None for _family, address in places) or len(places) > len(service.families())


def _other_port(service: Service) -> str:
    return (
        f"service {service.name}: on iptables, a client that uses one port of its own to two addresses of the service "
        f"may come to another port of a backend whose ports are shifted, since the service has snat: none; the "
        f"nftables engine always takes the right one, and so does masquerade"
    )


def _leads(key: Key, jumps: Section) -> bool:
    """Whether all of these jumps are in their chain."""
    family, table, _kind, chain = key
    there = b"".join(nf_tables.rules(family, table, chain) or [])
    return all(rule.split()[-1].encode() + b"\0" in there for rule in jumps.body)


def _has(rendered: Ruleset, family: Family) -> bool:
    return any(key.family == family for key in rendered)
