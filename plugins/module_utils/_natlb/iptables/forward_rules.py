# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets our connections, and no others, through a FORWARD chain of iptables that denies them.

    filter  FORWARD → NATLB.forward → tree by original port and address → ACCEPT; then egress

Every packet of a connection passes here, answers and ICMP errors too. All of them are identified by the origin of the
connection: its original destination, if translated, is a frontend of ours; its original source is in a network of
egress.
"""

from __future__ import annotations

from itertools import product

from ..model.entities import Config, Frontend, Service
from ..model.outbound import Egress
from ..model.spelling import is_everything
from ..packets import Family
from ..ruleset.names import digest
from ..ruleset.sections import Key, Ruleset, Section
from .dispatch import chain_name, ports_text
from .origin import add_trees, behind_backends
from .service import Tables

ROOT = chain_name("forward")
#: Names of services are not empty, so none of their chains begins like this.
_OTHERS = chain_name("", "a")


def render(config: Config, family: Family) -> Ruleset:
    """The chains of one family and the jump into them; empty where nothing is declared in it."""
    tables = Tables(family)
    rules = [*_services(tables, config), *_egress(tables, config)]
    if rules:
        tables.enter("filter", "FORWARD", "forward", rules)
    return tables.ruleset()


def split(ruleset: Ruleset) -> tuple[Ruleset, Ruleset]:
    """The sections of the iptables engine among all of ours in iptables, and those that are rendered here."""
    engine: Ruleset = {}
    forward: Ruleset = {}
    for key, section in ruleset.items():
        if key[1:] == ("filter", "jump", "FORWARD"):
            for found, mine in ((engine, False), (forward, True)):
                body = tuple(line for line in section.body if line.endswith(f" {ROOT}") == mine)
                if body:
                    found[key] = Section(section.header, body)
        else:
            (forward if is_here(key) else engine)[key] = section
    return engine, forward


def is_here(key: Key) -> bool:
    """Whether a chain is one of those that are rendered here."""
    return key.table == "filter" and (key.name == ROOT or key.name.startswith(_OTHERS))


def _services(tables: Tables, config: Config) -> list[str]:
    """A tree for each protocol; returns the rules that enter them."""

    def action(service: Service, frontend: Frontend) -> str:
        return behind_backends(tables, "a", service, frontend, "-j ACCEPT")

    roots = add_trees(tables, "filter", "a", config.services, action)
    return [f"-m conntrack --ctstate DNAT --ctproto {protocol} -j {root}" for protocol, root in roots]


def _egress(tables: Tables, config: Config) -> list[str]:
    """Connections from the networks behind the balancer to other networks, by the interface of the egress rule."""
    jumps: list[str] = []
    for item in config.egress:
        sources = item.sources_of(tables.family)
        if not sources:
            continue
        rules = [f"-m conntrack --ctorigdst {source} -j RETURN" for source in item.spared(tables.family)]
        targets = item.destinations_of(tables.family) or ("0.0.0.0/0",)
        for source, target in product(sources, targets):
            for match in _matches(item, source, target):
                rules += [f"-m conntrack {match}--ctdir {way} -j ACCEPT" for way in ("ORIGINAL", "REPLY")]
        if item.ways():
            rules = [rule for line in rules for rule in _on_ways(line, item.ways())]
        name = chain_name("", "a", digest("\n".join(rules)))
        tables.chains["filter", name] = rules
        jumps.append(f"-j {name}")
    return jumps


def _on_ways(rule: str, ways: list[str]) -> list[str]:
    """A rule once per way out: there its packets leave, and the answers come in."""
    if "--ctdir" not in rule:
        return [rule]
    return [f"{'-o' if 'ORIGINAL' in rule else '-i'} {way} {rule}" for way in ways]


def _matches(item: Egress, source: str, target: str) -> list[str]:
    match = "" if is_everything(source) else f"--ctorigsrc {source} "
    match += "" if is_everything(target) else f"--ctorigdst {target} "
    if item.protocol is None:
        return [match]
    match += f"--ctproto {item.protocol} "
    return [f"{match}--ctorigdstport {ports_text(ports)} " for ports in item.ports] or [match]
