# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign chains that our packets pass before or after our own chains, as this host has them.

The forward hook has its own file, `forward.py`, since a run may also open a path there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ..errors import HostError
from ..host import processes
from ..host.nf_tables import BaseChain
from ..iptables.dispatch import PREFIX
from ..iptables.program import Iptables, default_variant, iptables_variants, legacy_tables
from ..model.choices import Variant
from ..model.engine import Engine
from ..nftables import text
from ..nftables.program import Nft
from ..packets import FAMILIES, Family
from .listing import BUILTIN, is_of_iptables, parse_nft, parse_save
from .native import native
from .obstacles import Place
from .walk import Chains


def places(chains: Sequence[BaseChain], engine: Engine) -> Iterator[Place]:
    """All foreign places; `chains` are all base chains of nf_tables.

    If there is no foreign base chain, this reads nothing more.
    """
    strange = native(chains)
    for variant in _variants():
        legacy = (variant or default_variant()) == "legacy"
        for family in FAMILIES:
            tables = legacy_tables(family) if legacy else []
            for table, builtin in BUILTIN:
                if table == "filter":
                    continue
                known = any(chain[:3] == (family, table, builtin) for chain in chains)
                is_theirs = known and (family, table) not in strange
                if table in tables if legacy else is_theirs:
                    try:
                        yield from _of_iptables(engine, variant, family, (table, builtin))
                    except _CannotReadError:
                        strange.add((family, table))
    yield from _of_nft(chains, engine, strange)


class _CannotReadError(Exception):
    """iptables cannot, since nft made what is there."""


def _variants() -> list[Variant | None]:
    found: list[Variant | None] = [*iptables_variants()]
    return found or ([None] if processes.find("iptables") else [])


# -- nft -----------------------------------------------------------------------------------------------------------


def _of_nft(chains: Sequence[BaseChain], engine: Engine, strange: Collection[tuple[str, str]]) -> Iterator[Place]:
    listings: dict[tuple[str, str], str] = {}
    for chain in chains:
        if not _matters(chain, engine, strange):
            continue
        key = (chain.family, chain.table)
        if key not in listings:
            try:
                listings[key] = Nft().terse(*key)
            except HostError:
                # Gone since, or owned by a program that hides it.
                listings[key] = ""
        for found in parse_nft(listings[key], chain.hook):
            if found.base == chain.name:
                yield from _nft_place(found, chain, engine)


def _nft_place(found: Chains, chain: BaseChain, engine: Engine) -> Iterator[Place]:
    first, stop = before(chain, engine), ""
    targets = [rule.target for rule in found.rules[found.base] if rule.target.startswith(PREFIX)]
    if chain.kind == "nat" and targets:
        # iptables can still read it, and our own rules are in it.
        first, stop = "yes", targets[0]
    yield Place(found, chain.family, chain.hook, chain.kind, chain.priority, chain.devices, first, stop)


def _matters(chain: BaseChain, engine: Engine, strange: Collection[tuple[str, str]]) -> bool:
    """Whether our packets pass there, and whether what is done to them there affects us."""
    is_ours = chain[:2] in [(family, text.TABLE) for family in FAMILIES]
    if is_ours or (is_of_iptables(chain) and chain[:2] not in strange):
        return False
    if chain.kind == "nat":
        return chain.family != "bridge" and before(chain, engine) != "no"
    hooks = ("prerouting", "input") if chain.family == "bridge" else ("prerouting", "postrouting", "ingress")
    return chain.kind == "filter" and chain.hook in hooks


def before(chain: BaseChain, engine: Engine) -> str:
    """Whether a NAT chain comes before ours: yes, no, or maybe. Of two chains with the same priority, the one that was
    hooked in last comes first (nf_hook_entries_grow in net/netfilter/core.c). This changes with every reload."""
    ours = engine.nat_priorities.get(chain.hook)
    if chain.kind != "nat" or ours is None or chain.priority > ours:
        return "no"
    return "maybe" if chain.priority == ours else "yes"


# -- iptables ------------------------------------------------------------------------------------------------------


def _of_iptables(engine: Engine, variant: Variant | None, family: Family, builtin: tuple[str, str]) -> Iterator[Place]:
    table, name = builtin
    kind, hook, priority = BUILTIN[builtin]
    program = Iptables(variant)
    stop = ""
    first = "no"
    if table == "nat":
        # An engine with tables of its own has chains that come before these.
        if not engine.shares_tables:
            return
        first = "maybe"
        if engine.title == program.title:
            try:
                stop = _jump_behind(program.builtin(family, table, name))
            except HostError as error:
                raise _CannotReadError from error
            if not stop:
                return
            first = "yes"
    chains = parse_save(family, program.save(family, table=table), "", table, name)
    if chains is None:
        raise _CannotReadError
    chains.place = f"the chain {name} of the table {table} of {program.program(family)}"
    yield Place(chains, family, hook, kind, priority, (), first, stop)


def _jump_behind(rules: str) -> str:
    """Our chain that a built-in chain jumps to after foreign rules; empty if no foreign rules come before the jump.

    If there is no jump yet, the run will add it as the first rule.
    """
    lines = [line.split() for line in rules.splitlines() if line.startswith("-A ")]
    targets = [words[words.index("-j") + 1] if "-j" in words[:-1] else "" for words in lines]
    ours = [target for target in targets if target.startswith(PREFIX)]
    return ours[0] if ours and targets[0] != ours[0] else ""
