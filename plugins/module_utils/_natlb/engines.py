# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two engines as `apply.py` uses them: pure rendering joined to the programs of this host.

Both speak of *units*, the pieces that the kernel takes in one transaction: the whole ruleset for nft, one family for
iptables. A unit's text is what is validated, loaded and kept for the next boot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from . import clients, forward_rules, iptables, iptables_clients, iptables_count, kernel, nftables, scratch
from .clients import KnownClients
from .errors import HostError
from .kernel import Command
from .model import FAMILIES, Config
from .others import Closed
from .ruleset import Key, Ruleset, compare
from .unclaimed import Unclaimed

#: Maps with a counter per element, and NAT from named maps with ports: nft 1.0.0, Linux 5.13.
NFT_MINIMUM = (1, 0, 0)
LINUX_MINIMUM = (5, 13)


@dataclass(frozen=True)
class Transaction:
    """What will be loaded: `kind` is none, delta, replace or remove; `texts` go to the engine's program by unit."""

    kind: str
    texts: dict[str, str]


class NftablesEngine:
    """Rules in tables of our own, `ip natlb` and `ip6 natlb`."""

    name = title = "nftables"

    def __init__(self) -> None:
        self.nft = kernel.Nft()

    def identity(self) -> str:
        return self.nft.identity()

    def render(
        self,
        config: Config,
        networks: Sequence[str],
        closed: Mapping[str, Closed] | None = None,
        unclaimed: Mapping[str, Unclaimed] | None = None,
    ) -> Ruleset:
        return nftables.render(config, networks, closed, unclaimed)

    def texts(self, rendered: Ruleset) -> dict[str, str]:
        return {"nft": nftables.full(rendered)}

    def normal(self, _unit: str, text: str) -> str | None:
        return scratch.nft(self.nft, text)

    def parse(self, _unit: str, listing: str) -> Ruleset:
        return nftables.parse_listing(listing)

    def _listing(self, counters: bool) -> str:
        tables = [pair for pair in self.nft.tables() if pair[1] == nftables.TABLE and pair[0] in FAMILIES]
        return "".join(self.nft.list_table(family, table, counters) for family, table in tables)

    def listed(self) -> Ruleset:
        """What the kernel holds of ours now."""
        return nftables.parse_listing(self._listing(counters=False))

    def plan(self, live: Ruleset, normal: Ruleset, rendered: Ruleset) -> Transaction:
        if not compare(live, normal):
            return Transaction("none", {})
        present = sorted({key[0] for key in live})
        if not normal:
            return Transaction("remove", {"nft": nftables.full({}, present)})
        if not live:
            return Transaction("replace", self.texts(rendered))
        texts = nftables.delta(live, normal, rendered)
        return Transaction("delta", {f"nft {number}": text for number, text in enumerate(texts, 1)})

    def commands(self, transaction: Transaction) -> list[Command]:
        """What carries it out."""
        return self.nft.load(transaction.texts.values())

    def instead(self, transaction: Transaction, rendered: Ruleset) -> Transaction | None:
        """What a delta did not foresee, a replacement of our tables puts right, in one transaction too."""
        if transaction.kind != "delta":
            return None
        remembered = nftables.remembered(rendered, self._listing(counters=True))
        return Transaction("replace", {"nft": nftables.full(rendered) + remembered})

    def boot(self, rendered: Ruleset, directory: str) -> tuple[dict[str, str], list[str]]:
        """Files by name, and the shell lines that load them."""
        path = f"{directory}/ruleset.nft"
        return {"ruleset.nft": nftables.full(rendered)}, [f"{self.nft.path} -f {path}"]

    def undo(self, live: Ruleset, wanted: Ruleset) -> list[Command]:
        """What turns what a run wants into what is live before it.

        Raises `HostError` where nft would not take back what it lists.
        """
        text = nftables.full(nftables.loadable(live), sorted({key[0] for key in [*live, *wanted]}))
        self.nft.check(text)
        return self.nft.load([text])

    def retrace(self, live: Ruleset, now: Ruleset) -> list[Command]:
        """The same, but by what differs only, so that our tables keep their place and what packets have filled."""
        back = nftables.loadable(live)
        return self.nft.load(nftables.delta(now, live, back)) if live and now else self.undo(live, now)

    def residue(self) -> str:
        """What is left of a change that was undone: nothing, since the tables are ours."""
        return ""

    def readings(self, config: Config) -> tuple[dict[tuple[str, str], int], KnownClients]:
        """New connections by (service, backend key), as counted since the rules were loaded, and the clients known."""
        listing = self._listing(counters=True)
        return nftables.count(config, listing), clients.of_nftables(config, listing)


class IptablesEngine:
    """Rules in chains of our own in the tables that all share."""

    name = "iptables"

    def __init__(self, variant: str | None) -> None:
        self.program = kernel.Iptables(variant)
        #: Of the first listing: where jumps of ours stand, and which tables there are, by family.
        self._places: dict[Key, tuple[int, ...]] | None = None
        self._tables: dict[str, set[str]] = {}
        #: (family, table) of those that nft made, and iptables neither lists nor should write to.
        self._strange: set[tuple[str, str]] = set()

    @property
    def title(self) -> str:
        return self.program.title

    def identity(self) -> str:
        return self.program.identity()

    def render(
        self,
        config: Config,
        networks: Sequence[str],
        closed: Mapping[str, Closed] | None = None,
        unclaimed: Mapping[str, Unclaimed] | None = None,
    ) -> Ruleset:
        return iptables.render(config, networks, closed, unclaimed)

    def texts(self, rendered: Ruleset) -> dict[str, str]:
        return {family: iptables.full(rendered, family) for family in FAMILIES if _has(rendered, family)}

    def normal(self, unit: str, text: str) -> str | None:
        return scratch.iptables(self.program, unit, text)

    def parse(self, unit: str, listing: str) -> Ruleset:
        return iptables.parse_save(unit, listing)

    def _listing(self, family: str, counters: bool) -> str:
        """Asking iptables-legacy-save about tables that nobody uses would make them."""
        if self.program.variant == "legacy" and not kernel.legacy_tables(family):
            return ""
        return self.program.save(family, counters)

    def listed(self) -> Ruleset:
        """What the kernel holds of ours now, without the way through FORWARD."""
        found: Ruleset = {}
        places: dict[Key, tuple[int, ...]] = {}
        tables: dict[str, set[str]] = {}
        for family in FAMILIES:
            text = self._listing(family, counters=False)
            found.update(iptables.parse_save(family, text))
            places.update(iptables.jump_places(family, text))
            tables[family] = iptables.tables(text)
            self._strange |= {(family, table) for table in iptables.incompatible(text)}
        if self._places is None:
            self._places, self._tables = places, tables
        return forward_rules.split(found)[0]

    def plan(self, live: Ruleset, normal: Ruleset, rendered: Ruleset) -> Transaction:
        for family, table in sorted(self._strange & {key[:2] for key in normal}):
            raise HostError(
                f"{self.program.program(family)} cannot be used here: table {family} {table} was made with nft, and "
                f"iptables can neither list it nor should it write there; set engine: nftables, or give that table "
                f"another name"
            )
        if not compare(live, normal):
            return Transaction("none", {})
        if not normal:
            return Transaction("remove", iptables.remove(live))
        kind = "delta" if live else "replace"
        return Transaction(kind, iptables.delta(live, normal, rendered))

    def commands(self, transaction: Transaction) -> list[Command]:
        """What carries it out."""
        return self.program.restore(transaction.texts)

    def instead(self, _transaction: Transaction, _rendered: Ruleset) -> Transaction | None:
        """A delta has no other way: a replacement would not know what to take away."""
        return None

    def boot(self, rendered: Ruleset, directory: str) -> tuple[dict[str, str], list[str]]:
        """Files by name, and the shell lines that load them: chains in one step, then each jump where it is missing."""
        files: dict[str, str] = {}
        lines: list[str] = []
        for family in FAMILIES:
            if not _has(rendered, family):
                continue
            name = f"ruleset.{family}tables"
            chains = {key: section for key, section in rendered.items() if key[2] == "chain" and key[0] == family}
            files[name] = iptables.delta({}, chains, chains)[family]
            lines.append(f"{self.program.path(family, 'restore')} --noflush --wait 30 {directory}/{name}")
            program = f"{self.program.path(family)} --wait 30"
            for key in sorted(rendered):
                if key[0] == family and key[2] == "jump":
                    for jump in rendered[key].body:
                        words = jump.split(" ", 2)[2]
                        check = f"{program} -t {key[1]} -C {key[3]} {words} 2>/dev/null"
                        lines.append(f"{check} || {program} -t {key[1]} -I {key[3]} 1 {words}")
        return files, lines

    def undo(self, live: Ruleset, wanted: Ruleset) -> list[Command]:
        """What turns what a run wants into what is live before it."""
        return self.program.restore(iptables.delta(wanted, live, live))

    def retrace(self, live: Ruleset, now: Ruleset) -> list[Command]:
        """The same, with each jump where it stood among the rules of others."""
        return self.program.restore(iptables.delta(now, live, live, self._places))

    def residue(self) -> str:
        """What is left of a change that was undone: tables that iptables makes for whoever asks, and never removes."""
        new = [
            f"{self.program.program(family)} {table}"
            for family in FAMILIES
            for table in sorted(iptables.tables(self._listing(family, counters=False)) - self._tables[family])
        ]
        return f"tables that were not there before stay, without rules: {', '.join(new)}" if new else ""

    def readings(self, config: Config) -> tuple[dict[tuple[str, str], int], KnownClients]:
        """New connections by (service, backend key), as counted since the rules were loaded, and the clients known."""
        found: dict[tuple[str, str], int] = {}
        for family in FAMILIES:
            found.update(iptables_count.count(config, family, self._listing(family, counters=True)))
        return found, iptables_clients.read(config)


Engine = Union[NftablesEngine, IptablesEngine]


def _has(rendered: Ruleset, family: str) -> bool:
    return any(key[0] == family for key in rendered)


def linux_version() -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def nft_problem() -> str | None:
    """Why this host's nft cannot be used; None where it can."""
    path = kernel.find("nft")
    if path is None:
        return "nft is not installed (package nftables)"
    version = tuple(int(number) for number in re.findall(r"\d+", kernel.run([path, "--version"]))[:3])
    if version < NFT_MINIMUM:
        return f"nft {'.'.join(map(str, version))} is too old ({'.'.join(map(str, NFT_MINIMUM))} is needed)"
    if linux_version() < LINUX_MINIMUM:
        return f"Linux {os.uname().release} is too old ({'.'.join(map(str, LINUX_MINIMUM))} is needed)"
    return None


def choose(requested: str, variant: str | None = None) -> tuple[Engine, list[str]]:
    """The engine for this host, and warnings about what else lives on it.

    `auto` takes nftables where nft and the kernel can do it, unless rules live in iptables-legacy: two NAT engines in
    one kernel both translate, and neither shows what the other does.
    """
    legacy = kernel.legacy_has_rules()
    warnings = []
    if requested == "nftables" or (requested == "auto" and not legacy):
        problem = nft_problem()
        if problem is None:
            if legacy:
                warnings.append(
                    "iptables-legacy holds rules on this host as well; both translate, so mind which comes first"
                )
            return NftablesEngine(), warnings
        if requested == "nftables" or kernel.find("iptables") is None:
            remedy = "; or set engine: iptables"
            if kernel.find("iptables") is None:
                remedy = "" if requested == "nftables" else "; or install iptables 1.8, which engine: auto takes then"
            raise HostError(f"the nftables engine cannot run here: {problem}{remedy}")
        warnings.append(f"the iptables engine was taken: {problem}")
    elif requested == "auto":
        warnings.append("the iptables engine was taken, since this host's rules live in iptables-legacy")
    return IptablesEngine(_variant(variant, legacy)), warnings


def _variant(wanted: str | None, legacy: bool) -> str | None:
    """Which iptables: the one asked for, else the one that holds rules, else the one that plain `iptables` is."""
    offered = kernel.iptables_variants()
    variant = wanted or ("legacy" if legacy else kernel.default_variant())
    return variant if variant in offered else None


def leftovers(current: Engine) -> list[tuple[Engine, Ruleset]]:
    """What an earlier run with another engine or iptables variant has left in the kernel."""
    tables = kernel.Nft().tables() if kernel.find("nft") else []
    others: list[Engine] = []
    if current.name != "nftables" and any(table == nftables.TABLE for _unused, table in tables):
        others.append(NftablesEngine())
    held = {"legacy": any(kernel.legacy_tables(family) for family in FAMILIES)}
    held["nft"] = any(table in ("nat", "filter", "mangle") for _unused, table in tables)
    own = current.program.variant if isinstance(current, IptablesEngine) else ""
    others += [IptablesEngine(variant) for variant in kernel.iptables_variants() if variant != own and held[variant]]
    return [(engine, live) for engine in others for live in [engine.listed()] if live]
