# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The interface by which a connection came in, for the few services whose source NAT depends on it.

In POSTROUTING iptables knows only the outgoing interface (`-i` is refused there). Nearly always the original
destination and the backend identify the service. If they do not, the first packet is marked when it comes in, within
the bits that we use for uplinks. One mark for each interface is enough, since no two services of one interface overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError
from ..model.entities import Config, Frontend, Service
from ..model.outbound import mark_value
from ..model.overlaps import overlaps


def marks(config: Config, family: str) -> dict[Frontend, str]:
    """`VALUE/MASK` of each frontend whose connections have to be marked.

    Those are the ones that another interface's service overlaps, with a backend in common and another source NAT.
    Raises `ConfigError` where the marks do not fit behind those of the uplinks.
    """
    found = _ambiguous([service for service in config.services if service.interface], family)
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


def _ambiguous(services: Sequence[Service], family: str) -> set[Frontend]:
    if len({_source_nat(service) for service in services}) < 2:
        return set()
    claims = [
        (frontend, index)
        for index, service in enumerate(services)
        for frontend in service.frontends()
        if frontend.family == family
    ]
    backends = [{backend.address for backend in service.backends} for service in services]
    found: set[Frontend] = set()
    for (first, one), (second, two) in overlaps(claims, meet=_on_other_interfaces):
        if _source_nat(services[one]) != _source_nat(services[two]) and not backends[one].isdisjoint(backends[two]):
            found |= {first, second}
    return found


def _source_nat(service: Service) -> tuple[str, tuple[str, ...]]:
    return service.snat, service.snat_addresses


def _on_other_interfaces(one: Frontend, two: Frontend) -> bool:
    return one.interface != two.interface
