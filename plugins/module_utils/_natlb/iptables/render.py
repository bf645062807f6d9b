# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The iptables engine: a configuration as chains of both variants, iptables-nft and iptables-legacy.

    nat     PREROUTING  → NATLB.pre    → tree by port and address → NATLB.SERVICE.PROTOCOL → DNAT; then uplinks
            OUTPUT      → NATLB.out    → the same tree
            POSTROUTING → NATLB.post   → tree by original port and address → MASQUERADE, SNAT; then takeovers, egress
    filter  INPUT, FORWARD, OUTPUT → NATLB.refuse → tree of what the nat table let pass without an answer; before it,
                                                    trees of backends and frontends, for packets that belong to no
                                                    connection, and of frontends, for refusals that are held back
    mangle  PREROUTING  → NATLB.mark   → marks of services; the uplink that a connection came by, and the connection's
                                         uplink back onto each of its packets
            OUTPUT      → NATLB.answers → the same for the host's own

The nat table can neither reject nor drop. So a connection that is not to be served leaves it untranslated, by ACCEPT,
and the filter table refuses what is still addressed to a frontend then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..errors import ConfigErrors
from ..model.entities import Config, Frontend, Service
from ..model.ranges import ALL_PORTS, cidr, number_range
from ..model.redispatch import spared
from ..model.surroundings import NOWHERE, Surroundings
from ..model.takeover import decides, taking_over
from ..model.territory import Territory, territory_of
from ..model.unclaimed import Unclaimed
from ..packets import FAMILIES, Family
from ..ruleset.sections import Ruleset
from . import transit
from .balanced import add_tree
from .dispatch import Item, Tree, chain_name
from .egress import add_egress, add_uplinks
from .frontends import add_dispatch, to_frontend
from .invalid import add_invalid
from .marks import marks
from .origin import add_trees, merged
from .packet_marks import add_marks
from .redispatch import add_redispatch
from .service import Tables, service_target
from .source_nat import snat_action
from .takeover import add_ways_back
from .unable import unable

_UNREACHABLE = {"ip": "icmp-port-unreachable", "ip6": "icmp6-port-unreachable"}


def render(config: Config, around: Surroundings = NOWHERE) -> Ruleset:
    """The chains of a configuration, and the jumps that lead into them.

    Raises `ConfigErrors` for what iptables cannot do, and `ConfigError` where marks would need the same bits.
    """
    errors = list(unable(config.services))
    if errors:
        raise ConfigErrors(errors)
    return _render(config, around, Sharing.of(config))


class Sharing(NamedTuple):
    """How the frontends of all services share packets; for `spared` see `redispatch.spared`."""

    territory: Territory
    spared: frozenset[Frontend]
    #: The names of services whose connections are taken over.
    takeover: frozenset[str]

    @classmethod
    def of(cls, config: Config) -> Sharing:
        found = territory_of(config)
        return cls(found, spared(config.services, found), taking_over(config.services))


def _render(config: Config, around: Surroundings, sharing: Sharing) -> Ruleset:
    ruleset: Ruleset = {}
    for family in FAMILIES:
        tables = Tables(family, sharing.territory, sharing.takeover)
        services = [service for service in config.services if family in service.families()]
        marked = marks(config, tables)
        _add_dnat(tables, services, marked)
        _add_refusals(tables, services, around.unclaimed.get(family), sharing.spared)
        if family in around.closed and family in config.families():
            transit.enter_chains(tables, config, around.closed[family])
        add_marks(tables, config, marked)
        add_uplinks(tables, config)
        _add_snat(tables, services, around.connected, marked)
        add_ways_back(tables, services)
        add_egress(tables, config)
        ruleset.update(tables.ruleset())
    return ruleset


class SomeServices(NamedTuple):
    """See `model.engine.SomeServices`. No chain of a service depends on other services. The trees that lead to them do;
    what changes in these is for the whole to be rendered for."""

    mark_mask: int
    around: Surroundings
    sharing: Sharing

    def render(self, services: Sequence[Service]) -> Ruleset:
        return _render(Config(tuple(services), (), self.mark_mask), self.around, self.sharing)

    def after(
        self, before: Sequence[Service], after: Sequence[Service], _services: Iterable[Service]
    ) -> tuple[SomeServices, set[str]] | None:
        same = [service.frontends() for service in before] == [service.frontends() for service in after]
        return (self, set()) if same and list(map(decides, before)) == list(map(decides, after)) else None


def _add_dnat(tables: Tables, services: Sequence[Service], marked: Mapping[Frontend, str]) -> None:
    def rules(service: Service, frontend: Frontend) -> Sequence[str]:
        jump = to_frontend(frontend, f"-j {targets[(service.name, frontend.protocol)]}")
        mark = [to_frontend(frontend, f"-j MARK --set-xmark {marked[frontend]}")] if frontend in marked else []
        return [*mark, jump]

    targets = {(s.name, protocol): service_target(tables, s, protocol) for s in services for protocol in s.protocols}
    jumps = add_dispatch(tables, "nat", services, rules)
    if jumps:
        tables.enter("nat", "PREROUTING", "pre", jumps)
        # A packet of the host's own has no interface that it came in by, so `-i` never matches there.
        tables.enter("nat", "OUTPUT", "out", jumps)


def _add_refusals(
    tables: Tables, services: Sequence[Service], unclaimed: Unclaimed | None, spared: Collection[Frontend]
) -> None:
    """New connections to a frontend that no rule has translated, where a service may leave some so; to other ports of
    an address that no host has; packets of backends and clients that belong to no connection; and refusals that are
    held back."""
    refusing = [service for service in services if refuses(service, tables.family)]
    refusals = add_dispatch(tables, "filter", refusing, _refusal)
    loops = _add_loops(tables, unclaimed) if unclaimed else []
    resets, unreachable = add_redispatch(tables, services, spared)
    rules = [*unreachable, *add_invalid(tables, services)]
    if refusals or loops:
        # A connection that was translated is somebody's, even if its backend has the address of a frontend that
        # refuses.
        rules += ["-m conntrack --ctstate DNAT -j RETURN", *refusals, *loops]
    if unreachable or refusals or loops:
        # Nearly all packets leave here.
        states = ["INVALID", *(["NEW"] if refusals or loops else []), *(["RELATED"] if unreachable else [])]
        rules.insert(0, f"-m conntrack ! --ctstate {','.join(states)} -j RETURN")
    rules = [*resets, *rules]
    for builtin in ("INPUT", "FORWARD", "OUTPUT"):
        if rules and (refusals or resets or builtin != "OUTPUT"):
            tables.enter("filter", builtin, "refuse", rules if builtin == "INPUT" else [])


def _add_loops(tables: Tables, unclaimed: Unclaimed) -> list[str]:
    name = chain_name("", "nobody")
    answer = _UNREACHABLE[tables.family]
    tables.chains["filter", name] = ["-p tcp -j REJECT --reject-with tcp-reset", f"-j REJECT --reject-with {answer}"]
    tree = Tree(("", "u"), tables.bits, str, "-d {}".format)
    blocks = [block for block, _ports in merged((number_range(address), ALL_PORTS) for address in unclaimed.addresses)]
    items = [Item(ALL_PORTS, block, (f"-d {cidr(block, tables.bits)} -g {name}",)) for block in blocks]
    add_tree(tables, "filter", tree, items, above=2)
    return [f"-i {link} -o {link} -m conntrack --ctstate NEW -j {tree.root}" for link in unclaimed.interfaces]


def refuses(service: Service, family: Family) -> bool:
    """Whether some clients of the service, or all, are turned away."""
    limited = service.max_connections_per_client or service.new_connections_per_second
    return bool(limited or service.admission(family) is not None or not service.serving(family))


def _refusal(service: Service, frontend: Frontend) -> Sequence[str]:
    # Clients over a limit get the answer of those that are denied: here nothing tells one from the other any more.
    denies = service.admission(frontend.family) is not None
    does = (service.when_denied if denies else "reject") if service.serving(frontend.family) else service.when_empty
    if does == "drop":
        return [to_frontend(frontend, "-j DROP")]
    answer = "tcp-reset" if frontend.protocol == "tcp" else _UNREACHABLE[frontend.family]
    return [to_frontend(frontend, f"-j REJECT --reject-with {answer}")]


def _add_snat(
    tables: Tables, services: Sequence[Service], networks: Sequence[str], marked: Mapping[Frontend, str]
) -> None:
    def action(service: Service, frontend: Frontend) -> str:
        mark = f"-m mark --mark {marked[frontend]} " if frontend in marked else ""
        return mark + snat_action(tables, service, frontend, networks)

    roots = add_trees(tables, "nat", "s", services, action, dear=True)
    if roots:
        jumps = [f"-p {protocol} -m conntrack --ctstate DNAT -j {root}" for protocol, root in roots]
        tables.enter("nat", "POSTROUTING", "post", jumps)
