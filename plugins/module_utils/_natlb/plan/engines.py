# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Chooses the engine of this host, and finds the rules that an earlier run left in another one."""

from __future__ import annotations

from typing import Literal

from ..errors import ConfigError, HostError
from ..host import nf_tables, processes
from ..iptables import program
from ..iptables.engine import IptablesEngine
from ..iptables.unable import unable as iptables_unable
from ..model.choices import RequestedEngine, Variant
from ..model.engine import Engine
from ..model.entities import Config
from ..nftables import text
from ..nftables.engine import NftablesEngine, nft_problem
from ..packets import FAMILIES
from ..ruleset.sections import Ruleset

#: What each engine cannot do without.
PROGRAMS: dict[RequestedEngine, str] = {"nftables": "nft", "iptables": "iptables"}


def choose(requested: RequestedEngine, variant: Variant | None = None) -> tuple[Engine, list[str]]:
    """The engine for this host, and warnings about what else lives on it.

    `auto` takes nftables where nft and the kernel can do it, unless rules live in iptables-legacy: two NAT engines in
    one kernel both translate, and neither shows what the other does.
    """
    legacy = program.legacy_has_rules()
    warnings = []
    if requested == "nftables" or (requested == "auto" and not legacy):
        problem = nft_problem()
        if problem is None:
            if legacy:
                warnings.append(
                    "iptables-legacy holds rules on this host as well, and both translate; check which one comes first"
                )
            return NftablesEngine(), warnings
        if requested == "nftables" or processes.find("iptables") is None:
            remedy = "; or set engine: iptables"
            if processes.find("iptables") is None:
                remedy = "" if requested == "nftables" else "; or install iptables 1.8, which engine: auto then uses"
            raise HostError(f"the nftables engine cannot run here: {problem}{remedy}")
        warnings.append(f"the iptables engine is used: {problem}")
    elif requested == "auto":
        warnings.append("the iptables engine is used, since the rules of this host are in iptables-legacy")
    return IptablesEngine(_variant(variant, legacy)), warnings


def unable(requested: object, config: Config) -> list[ConfigError]:
    """What the engine that is asked for cannot do, whatever the host is; of `auto` only the host can tell."""
    return list(iptables_unable(config.services)) if requested == "iptables" else []


def choose_to_read(held_by: RequestedEngine | Literal[""], variant: Variant | None = None) -> tuple[Engine, list[str]]:
    """The engine that holds the rules, for who only looks at them. Raises `HostError` where its program is gone."""
    program = PROGRAMS.get(held_by) if held_by else None
    if program and processes.find(program) is None:
        raise HostError(
            f"{program} is no longer installed, so the rules of {held_by} cannot be read "
            f"(install the package {held_by}, or run natlb.netfilter.deploy, which installs it)"
        )
    return choose(held_by or "auto", variant)


def _variant(wanted: Variant | None, legacy: bool) -> Variant | None:
    """Which iptables: the one asked for, else the one that holds rules, else the one that plain `iptables` is."""
    offered = program.iptables_variants()
    variant = wanted or ("legacy" if legacy else program.default_variant())
    return variant if variant in offered else None


def other_engine_rules(current: Engine) -> list[tuple[Engine, Ruleset]]:
    """What an earlier run with another engine or iptables variant has left in the kernel."""
    tables = nf_tables.tables()
    others: list[Engine] = []
    if current.name != "nftables" and processes.find("nft") and any(table == text.TABLE for _unused, table in tables):
        others.append(NftablesEngine())
    held: dict[Variant, bool] = {"legacy": any(program.legacy_tables(family) for family in FAMILIES)}
    held["nft"] = any(table in ("nat", "filter", "mangle") for _unused, table in tables)
    others += [IptablesEngine(variant) for variant in program.iptables_variants() if held[variant]]
    return [(engine, live) for engine in others if engine.title != current.title for live in [engine.listed()] if live]
