# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared interfaces, compared with those of this host."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher

from ..host.links import Link, is_up
from ..host.routes import Routes
from ..model.entities import Config
from ..model.outbound import Uplink

#: So many names are offered in place of one that does not exist.
_OFFERED = 5


def warnings(config: Config, links: Sequence[Link]) -> list[str]:
    """Warnings about declared interfaces that no packet of the declaration uses."""
    known = {link.name: link for link in links}
    found = []
    for owner, name, way in named(config):
        link = known.get(name)
        what = "no connection comes in by it" if way == "in" else "nothing leaves by it"
        if link is None:
            # That an uplink is missing, and what happens then, `idle_warnings` tells.
            if way != "uplink":
                found.append(f"{owner}: this host has no interface {name}, so {what}; it has {_offered(name, known)}")
        elif link.master and link.port_of != "vrf":
            # Of a VRF the netfilter hooks see the port first (drivers/net/vrf.c).
            found.append(
                f"{owner}: {name} is a port of the {link.port_of or 'device'} {link.master}, so {what}; "
                f"write {link.master}"
            )
    return found


def named(config: Config) -> Iterator[tuple[str, str, str]]:
    """(whose, interface, whether it is a way in, out, or an uplink) of every one declared, each once for its owner."""
    seen: dict[tuple[str, str, str], None] = {}
    for service in config.services:
        if service.interface:
            seen[f"service {service.name}", service.interface, "in"] = None
    for item in config.egress:
        owner = f"egress of {item.sources[0]}"
        if item.out_interface:
            seen[owner, item.out_interface, "out"] = None
        seen.update({(owner, uplink.interface, "uplink"): None for uplink in item.uplinks})
    yield from seen


def idle(uplinks: Iterable[Uplink], table: Routes, here: Sequence[str]) -> dict[Uplink, str]:
    """The uplinks that cannot have a route now, and why. `here` are the interfaces of this host."""
    found = {}
    for uplink in uplinks:
        if uplink.interface not in here:
            found[uplink] = f"this host has no interface {uplink.interface} (it has {_offered(uplink.interface, here)})"
        elif not is_up(uplink.interface):
            found[uplink] = f"{uplink.interface} is down"
        elif uplink.gateway and not _reaches(table, uplink.interface, uplink.gateway):
            found[uplink] = f"{uplink.interface} is in no network that has {uplink.gateway}"
    return found


def _reaches(table: Routes, interface: str, gateway: str) -> bool:
    address = ipaddress.ip_address(gateway)
    return any(
        route.interface == interface and address in route.network and (route.direct or address.is_link_local)
        for route in table.all
        if route.network.version == address.version
    )


def idle_warnings(idle: Mapping[Uplink, str]) -> list[str]:
    return [
        f"uplink {uplink.interface}{f' via {uplink.gateway}' if uplink.gateway else ''}: {why}, so it has no route; "
        f"until it has one, its connections take the default route of the main table"
        for uplink, why in idle.items()
    ]


def own_gateways(uplinks: Iterable[Uplink], local: Collection[str]) -> list[str]:
    """Warnings about gateways that are addresses of this host. The kernel accepts such a route, and then sends ARP
    requests for its own address."""
    return [
        f"uplink {uplink.interface} via {uplink.gateway}: {uplink.gateway} is an address of this host itself, so its "
        f"connections go nowhere; write the address of the router behind {uplink.interface}"
        for uplink in uplinks
        if uplink.gateway in local
    ]


def _offered(name: str, here: Iterable[str]) -> str:
    """The interfaces there are, nearest first."""
    names = sorted((other for other in here if other != "lo"), key=lambda other: (-_likeness(name, other), other))
    more = ", …" if len(names) > _OFFERED else ""
    return ", ".join(names[:_OFFERED]) + more if names else "none but lo"


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, name.lower(), other.lower()).ratio()
