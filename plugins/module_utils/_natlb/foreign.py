# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chains of others that packets of ours pass before or behind our own, read from this host.

The forward hook has a file of its own, `forward.py`, since there a run may open a way as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from . import kernel, nftables
from .dispatch import PREFIX
from .engines import Engine, IptablesEngine
from .errors import HostError
from .foreign_listing import BaseChain, base_chains, parse_nft, parse_save
from .model import FAMILIES
from .obstacles import Place

#: The built-in chains of iptables other than those of its filter table: table, chain, hook and priority
#: (linux/netfilter_ipv4.h). A nat table belongs to the hooks of nat.
_BUILTIN = (
    ("raw", "PREROUTING", "prerouting", -300),
    ("mangle", "PREROUTING", "prerouting", -150),
    ("nat", "PREROUTING", "prerouting", -100),
    ("mangle", "POSTROUTING", "postrouting", -150),
    ("nat", "POSTROUTING", "postrouting", 100),
)
#: Of ours: where iptables has them.
_IPTABLES_NAT = {"prerouting": -100, "postrouting": 100}


def places(listing: str | None, engine: Engine) -> Iterator[Place]:
    """What there is besides ours, from `nft list chains` (None where the host has no nft).

    Where nobody else has hooked anything in, this reads nothing more.
    """
    chains = base_chains(listing or "")
    yield from _of_nft(chains, engine)
    for variant in _variants():
        legacy = (variant or kernel.default_variant()) == "legacy"
        for family in FAMILIES:
            tables = kernel.legacy_tables(family) if legacy else []
            for table, builtin, hook, priority in _BUILTIN:
                known = any(chain[:3] == (family, table, builtin) for chain in chains)
                if table in tables if legacy else known or listing is None:
                    yield from _of_iptables(engine, variant, family, (table, builtin, hook, priority))


def _variants() -> list[str | None]:
    found: list[str | None] = [*kernel.iptables_variants()]
    return found or ([None] if kernel.find("iptables") else [])


# -- nft -----------------------------------------------------------------------------------------------------------


def _of_nft(chains: Sequence[BaseChain], engine: Engine) -> Iterator[Place]:
    listings: dict[tuple[str, str], str] = {}
    for chain in chains:
        if not _matters(chain, engine):
            continue
        key = (chain.family, chain.table)
        if key not in listings:
            try:
                listings[key] = kernel.Nft().terse(*key)
            except HostError:
                # Gone since, or owned by a program that hides it.
                listings[key] = ""
        for found in parse_nft(listings[key], chain.hook):
            if found.base == chain.name:
                yield Place(
                    found, chain.family, chain.hook, chain.kind, chain.priority, chain.devices, before(chain, engine)
                )


def _matters(chain: BaseChain, engine: Engine) -> bool:
    """Whether packets of ours pass there, and what is done to them there could be felt by us."""
    if chain[:2] in [(family, nftables.TABLE) for family in FAMILIES] or _is_of_iptables(chain):
        return False
    if chain.kind == "nat":
        return chain.family != "bridge" and before(chain, engine) != "no"
    hooks = ("prerouting", "input") if chain.family == "bridge" else ("prerouting", "postrouting", "ingress")
    return chain.kind == "filter" and chain.hook in hooks


def _is_of_iptables(chain: BaseChain) -> bool:
    return chain.family in FAMILIES and any(chain[1:3] == builtin[:2] for builtin in _BUILTIN)


def before(chain: BaseChain, engine: Engine) -> str:
    """Whether a chain of nat comes before ours: yes, no, or maybe. Of two with one priority that comes first which was
    hooked in last (nf_hook_entries_grow in net/netfilter/core.c), and that changes with every reload."""
    ours = (_IPTABLES_NAT if isinstance(engine, IptablesEngine) else nftables.NAT).get(chain.hook)
    if chain.kind != "nat" or ours is None or chain.priority > ours:
        return "no"
    return "maybe" if chain.priority == ours else "yes"


# -- iptables ------------------------------------------------------------------------------------------------------


def _of_iptables(
    engine: Engine, variant: str | None, family: str, builtin: tuple[str, str, str, int]
) -> Iterator[Place]:
    table, name, hook, priority = builtin
    program = kernel.Iptables(variant)
    stop = ""
    first = "no"
    if table == "nat":
        # The nftables engine's chains come before these.
        if not isinstance(engine, IptablesEngine):
            return
        first = "maybe"
        if engine.program.variant == variant:
            stop = _jump_behind(program.builtin(family, table, name))
            if not stop:
                return
            first = "yes"
    chains = parse_save(family, program.save(family, table=table), "", table, name)
    if chains is not None:
        chains.place = f"the chain {name} of the table {table} of {program.program(family)}"
        yield Place(chains, family, hook, "nat" if table == "nat" else "filter", priority, (), first, stop)


def _jump_behind(rules: str) -> str:
    """The chain of ours that a built-in one leads to, where rules of others come before; empty where they do not.

    Where it leads to none yet, the jump that a run adds will be the first.
    """
    lines = [line.split() for line in rules.splitlines() if line.startswith("-A ")]
    targets = [words[words.index("-j") + 1] if "-j" in words[:-1] else "" for words in lines]
    ours = [target for target in targets if target.startswith(PREFIX)]
    return ours[0] if ours and targets[0] != ours[0] else ""
