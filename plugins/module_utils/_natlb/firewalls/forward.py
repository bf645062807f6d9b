# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forward path of this host: what denies our connections there, and the opening that a run makes if it may.

iptables has one FORWARD chain for all tools. If it is closed (Docker and ufw set its policy to DROP), it jumps first to
a chain of ours, which lets our connections pass, and no others. In nft every tool has its own chains, and an accept in
ours does not overrule them. A run never changes these. It reports which rule to add.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Callable

from ..errors import HostError
from ..host import nf_tables, processes
from ..host.nf_tables import BaseChain
from ..host.processes import Command
from ..host.routes import Routes
from ..iptables import foreign_jumps, forward_rules, restore
from ..iptables.dispatch import PREFIX
from ..iptables.program import Iptables, default_variant, iptables_variants, legacy_tables
from ..model.choices import Firewall, Variant
from ..model.entities import Config
from ..nftables.program import Nft
from ..nftables.text import TABLE
from ..packets import FAMILIES, Family, family_named, family_of
from ..ruleset.sections import Key, Ruleset, Section, families_of
from .forward_path import Finding, denial, may_deny, packets
from .listing import Hook, forward_hooks, is_of_iptables, parse_nft, parse_save
from .native import native
from .walk import Chains, Packet

_MISPLACED = "# stands behind a rule that may deny its connections"
_MARKS = (("DOCKER-USER", "Docker"), ("ufw-before-forward", "ufw"), ("FWD_public", "firewalld"))


class Opening:
    """Rules in the FORWARD chain of one variant of iptables: an engine of one chain, in units of its own."""

    def __init__(self, variant: Variant | None) -> None:
        self.program = Iptables(variant)
        self.live: Ruleset = {}
        self.rendered: Ruleset = {}
        #: Of its chains those that others lead to.
        self.held: foreign_jumps.Held = {}
        #: Families in which its jump stands before all others of ours.
        self._first: set[Family] = set()

    @property
    def title(self) -> str:
        return f"{self.program.title} forward"

    @property
    def is_legacy(self) -> bool:
        return (self.program.variant or default_variant()) == "legacy"

    def identity(self) -> str:
        return self.program.identity()

    def texts(self, rendered: Ruleset) -> dict[str, str]:
        texts = {family: restore.full(rendered, family) for family in FAMILIES}
        return {family: text for family, text in texts.items() if text}

    def normal(self, unit: str, text: str) -> str | None:
        return self.program.normal(family_named(unit), text)

    def parse(self, unit: str, listing: str) -> Ruleset:
        found, held = foreign_jumps.split(restore.parse_save(family_named(unit), listing))
        self.held.update((key, rules) for key, rules in held.items() if forward_rules.is_here(key))
        return forward_rules.split(found)[1]

    def read_filter(self, family: Family) -> str:
        """What the kernel holds of a family's table filter now; `live` is what of it is of this way."""
        text = self.program.save(family, table="filter")
        self.live.update(self.parse(family, text))
        jumps = restore.parse_save(family, text).get(Key(family, "filter", "jump", "FORWARD"), Section((), ())).body
        if jumps and jumps[0].endswith(f" {forward_rules.ROOT}"):
            self._first.add(family)
        return text

    def precedes(self) -> list[tuple[str, Family]]:
        """The programs, each with its family, in whose FORWARD chain connections are let pass before other rules of
        ours are met, now or once the change is made."""
        jumps = [Key(family, "filter", "jump", "FORWARD") for family in FAMILIES]
        inserted = families_of(
            key for key in jumps if key in self.rendered and self.rendered[key] != self.live.get(key)
        )
        return [(self.program.program(family), family) for family in FAMILIES if family in {*self._first, *inserted}]

    def uniform(self, _key: Key, _section: Section) -> bool:
        """No: each rule is listed in a form of its own."""
        return False

    def listed(self) -> Ruleset:
        """What the kernel holds of it now, in the families where something was to be loaded."""
        found: Ruleset = {}
        for family in self._families():
            found.update(self.parse(family, self.program.save(family, table="filter")))
        return found

    def as_loaded(self) -> Ruleset:
        """How the kernel lists what was loaded; as it was loaded where somebody has taken rules away since."""
        found = self.listed()
        return {
            key: found[key] if key in found and len(found[key].body) == len(section.body) else section
            for key, section in self.rendered.items()
        }

    def read(self) -> Ruleset:
        """What the kernel holds of it now, in every family, as `live` was before."""
        found: Ruleset = {}
        for family in families_of([*self.rendered, *self.live]):
            found.update(self.parse(family, self.program.save(family, table="filter")))
        marked = {key for key, section in self.live.items() if section.header == (_MISPLACED,)}
        return {key: Section((_MISPLACED,), s.body) if key in marked else s for key, s in found.items()}

    def commands(self, normal: Ruleset) -> list[Command]:
        """What makes the opening."""
        return self.program.restore(restore.delta(self.live, normal, self.rendered, held=self.held))

    def undo(self, now: Ruleset) -> list[Command]:
        """What turns `now` into what is live before the change."""
        return self.program.restore(restore.delta(now, self.live, self.live, held=self.held))

    def stands(self) -> bool:
        """Whether no rule of others stands before it in any FORWARD chain, told without listing anything."""
        found = [nf_tables.rules(family, "filter", "FORWARD") for family in self._families()]
        return not self.is_legacy and all(chain is None or _is_ahead(chain) for chain in found)

    def again(self, tried: Sequence[Packet], wanted: Ruleset) -> list[Command]:
        """What puts it back, where it is gone or stands behind a denial of connections such as those in `tried`."""
        now = Opening(self.program.variant)
        families = [family for family in self._families() if not self.is_legacy or "filter" in legacy_tables(family)]
        for family in families:
            chains = parse_save(family, now.read_filter(family), "")
            if chains is not None:
                now.rendered.update({key: section for key, section in self.rendered.items() if key.family == family})
                _mark_misplaced(now.live, chains, tried)
        return now.commands({key: section for key, section in wanted.items() if key in now.rendered})

    def _families(self) -> list[Family]:
        return families_of(self.rendered)

    def boot(self, directory: str) -> tuple[dict[str, str], list[str]]:
        """Files by name, and the shell lines that load them."""
        files: dict[str, str] = {}
        lines: list[str] = []
        for family in self._families():
            name = f"forward.{self.program.program(family)}"
            chains = {key: section for key, section in self.rendered.items() if key.kind == "chain"}
            files[name] = restore.full(chains, family)
            lines.append(f"{self.program.path(family, 'restore')} --noflush --wait 30 {directory}/{name}")
            program, jump = f"{self.program.path(family)} --wait 30", f"-j {forward_rules.ROOT}"
            lines.append(f"{program} -C FORWARD {jump} 2>/dev/null || {program} -I FORWARD 1 {jump}")
        return files, lines


def _is_ahead(chain: Sequence[bytes]) -> bool:
    ahead = itertools.takewhile(lambda rule: PREFIX.encode() in rule, chain)
    return any(forward_rules.ROOT.encode() + b"\0" in rule for rule in ahead)


#: The names of every file that `boot` may write.
FILES = tuple(f"forward.{name}{tail}" for name in ("iptables", "ip6tables") for tail in ("", "-nft", "-legacy"))


@dataclass
class ForwardPath:
    """The state of the forward path: openings that exist or should exist, and warnings."""

    firewall: Firewall
    openings: list[Opening] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    #: The packets of our connections.
    tried: Callable[[], Sequence[Packet]] = list

    def boot(self, directory: str) -> tuple[dict[str, str], list[str]]:
        """Files by name, and the shell lines that load them."""
        files: dict[str, str] = {}
        lines: list[str] = []
        for opening in self.openings:
            more, loading = opening.boot(directory)
            files.update(more)
            lines += loading
        return files, lines

    def is_newly_closed(self) -> bool:
        """Whether a FORWARD chain of iptables-nft may deny our connections now, in which no opening was made."""
        if self.firewall != "accept" or "nft" not in {variant or default_variant() for variant in _offered()}:
            return False
        now = Opening("nft" if "nft" in iptables_variants() else None)
        opened = {key.family for opening in self.openings if not opening.is_legacy for key in opening.rendered}
        for family in {packet.family for packet in self.tried()} - opened:
            there = nf_tables.rules(family, "filter", "FORWARD") is not None
            chains = parse_save(family, now.read_filter(family), "") if there else None
            if chains is not None and (chains.policy != "accept" or may_deny(chains, self.tried())):
                return True
        return False

    def preceding(self) -> list[tuple[str, Family]]:
        """See `Opening.precedes`."""
        return [place for opening in self.openings for place in opening.precedes()]


def read(config: Config, firewall: Firewall, routes: Routes, chains_of_nft: Sequence[BaseChain]) -> ForwardPath:
    """Read the forward path, and find out what a run has to do there. Changes nothing.

    `chains_of_nft` are all base chains.
    """
    tried = cache(partial(packets, config, routes.ways))
    path = ForwardPath(firewall, tried=tried)
    hooks = forward_hooks(chains_of_nft)
    strange = {family for family, table in native(chains_of_nft) if table == "filter"}
    others = _Others(hooks)
    for opening, found in others.of_iptables(strange):
        for chains in found:
            if firewall == "accept" and (chains.policy != "accept" or may_deny(chains, tried())):
                opening.rendered.update(forward_rules.render(config, chains.family))
                _mark_misplaced(opening.live, chains, tried())
            elif (finding := denial(chains, tried())) is not None:
                path.warnings.append(f"{finding.text()}; firewall: accept lets only them pass")
        if opening.live or opening.rendered:
            path.openings.append(opening)
        programs = {family: opening.program.program(family) for family in FAMILIES}
        path.warnings += foreign_jumps.warnings(opening.held, opening.rendered, programs)
    for hook in others.of_nft():
        path.warnings += _nft_warnings(hook, tried())
    return path


def everyones(chains_of_nft: Sequence[BaseChain]) -> Iterator[tuple[Chains, str]]:
    """Each base chain at the forward hook but those of natlb's own tables, and what lets connections pass there.

    Changes nothing. A jump into `forward_rules.ROOT` stands for the opening of natlb in the chain.
    """
    hooks = forward_hooks(chains_of_nft)
    strange = {family for family, table in native(chains_of_nft) if table == "filter"}
    others = _Others(hooks)
    for _opening, found in others.of_iptables(strange):
        yield from ((chains, "set firewall: accept, which lets natlb's connections pass there") for chains in found)
    for hook in others.of_nft():
        yield from ((chains, _nft_remedy(hook, ["ct status dnat accept"])) for chains in _nft_chains(hook))


class _Others:
    """The base chains of others at the forward hook: those that iptables lists, and then the rest, which are nft's."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = hooks
        self._read: set[str] = set()

    def of_iptables(self, strange: Collection[str]) -> Iterator[tuple[Opening, list[Chains]]]:
        """The chains of each variant of iptables, and the opening of ours in them."""
        for variant, families in _iptables_places(self._hooks):
            opening = Opening(variant)
            found = [chains for family in families if (chains := _read(opening, family, strange)) is not None]
            self._read |= set() if opening.is_legacy else {chains.family for chains in found}
            yield opening, found

    def of_nft(self) -> Iterator[Hook]:
        """Once those of iptables are read."""
        for hook in self._hooks:
            if not (is_of_iptables(hook) and hook[0] in self._read) and not _is_own(hook):
                yield hook


def _read(opening: Opening, family: Family, strange: Collection[str]) -> Chains | None:
    """The FORWARD chain as iptables lists it; None if it is a chain of nft, or if there is none.

    A chain that already has an opening of ours counts as one of iptables: the opening stays, and can be removed.
    """
    text = opening.read_filter(family)
    chains = parse_save(family, text, "")
    ours = any(key.family == family for key in opening.live)
    if chains is None or (family in strange and not ours and not opening.is_legacy):
        return None
    chains.place = f"the chain FORWARD of {opening.program.program(family)}{_owner(chains)}"
    return chains


def _iptables_places(hooks: Sequence[Hook]) -> list[tuple[Variant | None, list[Family]]]:
    """The variants of iptables, each with the families in which it has a FORWARD chain. Listing the chain with iptables
    would create it."""
    found: list[tuple[Variant | None, list[Family]]] = []
    legacy = [family for family in FAMILIES if "filter" in legacy_tables(family)]
    nft = [f for f in FAMILIES if any(hook[0] == f and is_of_iptables(hook) for hook in hooks)]
    for variant in _offered():
        is_legacy = (variant or default_variant()) == "legacy"
        families = legacy if is_legacy else nft
        if families:
            found.append((variant, families))
    return found


def _offered() -> list[Variant | None]:
    """The variants of iptables by their names, or the one that has none."""
    return [*iptables_variants()] or ([None] if processes.find("iptables") else [])


def _owner(chains: Chains) -> str:
    names = [owner for chain, owner in _MARKS if chain in chains.rules]
    return f" of {' and '.join(names)}" if names else ""


def _mark_misplaced(live: Ruleset, chains: Chains, tried: Sequence[Packet]) -> None:
    """Make a jump that comes after a denial differ from the wanted one, so that it is put first again."""
    key = (chains.family, "filter", "jump", "FORWARD")
    if key in live and may_deny(chains, tried, stop=forward_rules.ROOT):
        live[key] = Section((_MISPLACED,), live[key].body)


def _is_own(hook: Hook) -> bool:
    return hook[:2] in [(family, TABLE) for family in FAMILIES]


def _nft_chains(hook: Hook) -> list[Chains]:
    family, table, name = hook
    try:
        listing = Nft().terse(family, table)
    except HostError:
        # Gone since, or owned by a program that hides it.
        return []
    return [chains for chains in parse_nft(listing) if chains.base == name]


def _nft_warnings(hook: Hook, tried: Sequence[Packet]) -> list[str]:
    return [_nft_warning(hook, found) for chains in _nft_chains(hook) for found in [denial(chains, tried)] if found]


def _nft_warning(hook: Hook, finding: Finding) -> str:
    rules = ["ct status dnat accept"] if finding.dnat else []
    rules += [f"ct original {family_of(source)} saddr {source} accept" for source in finding.sources]
    return f"{finding.text()}; natlb changes no foreign table: {_nft_remedy(hook, rules)}"


def _nft_remedy(hook: Hook, rules: Sequence[str]) -> str:
    """The rules to add, since natlb changes no foreign table."""
    family, table, name = hook
    if table == "firewalld":
        return "let them pass with a policy (firewall-cmd --permanent --new-policy, firewalld.policies(5))"
    commands = " and ".join(f"`nft insert rule {family} {table} {name} {rule}`" for rule in rules)
    return f"run {commands}, and add the rule to its file too"
