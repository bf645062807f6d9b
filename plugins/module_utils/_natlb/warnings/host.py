# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The warnings of a run: this host cannot carry out the declaration, although the rules are right.

This file reads the host, and only if the result matters. Pure functions in other files make the warnings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..firewalls import foreign, obstacles
from ..host import iproute, links, proc, processes, sockets, sysctl
from ..host.nf_tables import BaseChain
from ..host.routes import Routes, Ways
from ..model.engine import Engine
from ..model.entities import Config
from ..model.helpers import modules
from ..model.spelling import is_network
from ..model.takeover import LOOSE, taking_over
from ..packets import family_name
from . import (
    addresses,
    boot_settings,
    bridges,
    checks,
    covered,
    few_ports,
    helpers,
    interfaces,
    listeners,
    loose,
    networks,
    reverse_path,
)


def collect(
    config: Config,
    engine: Engine,
    table: Routes,
    chains: Sequence[BaseChain],
    boots: Mapping[str, str],
) -> list[str]:
    """Every warning, once.

    `chains` are all base chains of nf_tables; `boots` are the sysctls that are to hold after a reboot as well.
    """
    warnings = [
        *_empty(config),
        *engine.warnings(config),
        *_links(config, table),
        *_addresses(config, engine, table),
        *_astray(config, table),
        *_marked(config),
        *_obstacles(config, engine, table, chains),
        *(
            listeners.warnings(config, sockets.listeners(listeners.ports(config)), proc.local_addresses())
            if config.services
            else ()
        ),
        *_checks(config),
        *covered.warnings(config),
        *few_ports.warnings(config, sysctl.get),
        *_taken_over(config),
        *_helpers(config),
        *_networks(config, table),
    ]
    if boots:
        warnings += boot_settings.overrides(sysctl.files(boot_settings.SYSCTL_DIRECTORIES), boots)
    return list(dict.fromkeys(warnings))


def _empty(config: Config) -> Iterator[str]:
    for service in config.services:
        families = service.families()
        empty = [family for family in families if not service.serving(family)]
        if empty:
            over = "" if len(empty) == len(families) else f" over {family_name(empty[0])}"
            yield f"service {service.name}: no backend can serve{over}; clients get a {service.when_empty}"


def _checks(config: Config) -> Iterator[str]:
    if any(service.health is not None for service in config.services):
        yield from checks.warnings(
            config, proc.local_addresses(), lambda name: processes.find(name) is not None, processes.has_user
        )


def _taken_over(config: Config) -> Iterator[str]:
    names = taking_over(config.services)
    if names and sysctl.get(LOOSE) == "0":
        yield loose.warning(names)


def _helpers(config: Config) -> Iterator[str]:
    needed = modules(config.services)
    if needed:
        yield from helpers.warnings(needed, proc.modules())


def _links(config: Config, table: Routes) -> Iterator[str]:
    families = bridges.filtered() if config.services else []
    known = links.read() if families or any(interfaces.named(config)) else []
    yield from interfaces.warnings(config, known)
    if config.uplinks():
        yield from interfaces.own_gateways(config.uplinks(), proc.local_addresses())
    if any(link.kind == "bridge" for link in known):
        for bridge, services in bridges.bridged_backends(config, known, Ways(table.ways), families).items():
            warning = bridges.warning(bridge, services, known, links.bridge_ports(bridge))
            if warning is not None:
                yield warning


def _addresses(config: Config, engine: Engine, table: Routes) -> list[str]:
    if config.empty:
        return []
    needing_route = engine.refusals_needing_route(config)
    here = addresses.Addressing(proc.local_addresses(), table.connected, table.ways if needing_route else [])
    return addresses.warnings(config, here, needing_route)


def _astray(config: Config, table: Routes) -> list[str]:
    bound = {service.interface for service in config.services if service.interface}
    # At an interface that is not there nothing is dropped; that it is missing is told elsewhere.
    strict = {name for name in bound.intersection(links.names() if bound else ()) if reverse_path.strict(name)}
    services = reverse_path.without_return_route(config, table.ways, strict) if strict else []
    return [reverse_path.warning(service) for service in services] if services and reverse_path.by_main_table() else []


def _marked(config: Config) -> Iterator[str]:
    if any(service.is_marked for service in config.services) and not reverse_path.by_main_table():
        yield from reverse_path.marked(config, _way, reverse_path.strict)


def _way(address: str, mark: int) -> str:
    return str(iproute.route(address, "", "", mark)[0].get("dev", ""))


def _networks(config: Config, table: Routes) -> Iterator[str]:
    if any(is_network(listen.address) for service in config.services for listen in service.listens):
        yield from networks.warnings(config, Ways(table.ways))
        links = [(route.network, route.interface) for route in table.all if route.direct]
        own = networks.Own(proc.local_addresses(), proc.local_networks())
        yield from networks.unanswered(config, links, own, iproute.proxies)


def _obstacles(config: Config, engine: Engine, table: Routes, chains: Sequence[BaseChain]) -> Iterator[str]:
    places = [] if config.empty else list(foreign.places(chains, engine))
    if places:
        is_bridged = any(place.family == "bridge" for place in places)
        filtered = bridges.filtered() if is_bridged else []
        # Where br_netfilter is on, a bridge has our rules translate at priority 0 (NF_BR_PRI_BRNF), before these.
        places = [place for place in places if not place.sees_translated(filtered)]
        names = [link.name for link in links.read() if link.kind == "bridge"] if is_bridged else []
        traffic = obstacles.Traffic(config, table.ways, proc.local_addresses(), names)
        yield from obstacles.warnings(places, traffic)
