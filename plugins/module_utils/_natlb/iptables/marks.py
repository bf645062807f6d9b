# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface by which a connection came in, for the few services whose source NAT depends on it.

In POSTROUTING iptables knows only the outgoing interface (`-i` is refused there). Nearly always the original
destination and the backend identify the service. If they do not, the first packet is marked when it comes in, within
the bits that we use for uplinks. One mark for each interface is enough: of two frontends of one interface the original
destination tells which takes a packet, or they share none.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError
from ..model.entities import Config, Frontend, Service
from ..model.outbound import mark_value
from ..model.overlaps import overlaps
from ..model.precedence import rank
from .service import Tables


def marks(config: Config, tables: Tables) -> dict[Frontend, str]:
    """`VALUE/MASK` of each frontend whose connections have to be marked.

    Those are frontends of one interface that share packets with a less specific one of another interface or of any,
    with a backend in common and another source NAT; that one as well, if it is of an interface. Raises `ConfigError`
    where the marks do not fit behind those of the uplinks.
    """
    found = _ambiguous(config.services, tables) if any(service.interface for service in config.services) else set()
    interfaces = sorted({frontend.interface or "" for frontend in found})
    first, room = len(config.uplinks()), config.mark_mask // (config.mark_mask & -config.mark_mask)
    if first + len(interfaces) > room:
        raise ConfigError(
            "mark_mask",
            f"{config.mark_mask:#x} has room for {room} marks, but {first} uplinks and {len(interfaces)} interfaces of "
            f"services that overlap up to the interface, and share a backend but not their snat, need one each",
            "widen it, give such services the same snat, or use engine: nftables",
        )
    values = {name: mark_value(config.mark_mask, first + index) for index, name in enumerate(interfaces)}
    return {frontend: f"{values[frontend.interface or '']:#x}/{config.mark_mask:#x}" for frontend in found}


def _ambiguous(services: Sequence[Service], tables: Tables) -> set[Frontend]:
    if len({service.source_nat for service in services}) < 2:
        return set()
    claims = [(frontend, index) for index, service in enumerate(services) for frontend in tables.frontends(service)]
    backends = [{backend.address for backend in service.backends} for service in services]
    found: set[Frontend] = set()
    for (first, one), (second, two) in overlaps(claims, meet=_on_other_interfaces):
        more, less = sorted((first, second), key=rank, reverse=True)
        if (
            more.interface is not None
            and services[one].source_nat != services[two].source_nat
            and not backends[one].isdisjoint(backends[two])
        ):
            found |= {frontend for frontend in (more, less) if frontend.interface is not None}
    return found


def _on_other_interfaces(one: Frontend, two: Frontend) -> bool:
    return one.interface != two.interface
