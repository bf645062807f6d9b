# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ports that translated connections come from: whether they are those of services, and how many there are. Pure.

A translated connection that comes from the port of a service shadows it: what its backend sends to that service from
the port that it serves belongs to that connection (see `shadowing.py`).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from ..packets import FAMILIES, PROTOCOLS, Family
from . import values
from .entities import Frontend, Service
from .network_index import NetworkIndex
from .outbound import Egress
from .ranges import Range
from .spelling import ports_text

#: Family, protocol and address; with an empty address, all of them.
_Lane = tuple[Family, str, str]
_ALL = ""


def read_ports(value: Any, path: str) -> Range:
    """As a user types it: `20000-29999`. Raises `ConfigError`."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        raise ConfigError(path, f"{values.shown(value)} is not a range of ports", "write it like 20000-29999")
    return values.port_range(text.strip(), path)


def collisions(services: Mapping[int, Service], egress: Mapping[int, Egress]) -> Iterator[ConfigError]:
    """An error for each service and egress rule that would translate to a port at which a service listens."""
    asking = [(f"services[{at}]", item.snat_ports, _lanes(item)) for at, item in services.items() if item.snat_ports]
    asking += [(f"egress[{at}]", item.snat_ports, _outward(item)) for at, item in egress.items() if item.snat_ports]
    if not asking:
        return
    listening = _Listening(services.values())
    for path, (low, high), lanes in asking:
        for lane in lanes:
            met = listening.meeting(lane, (low, high))
            if met is not None:
                frontend, name = met
                problem = f"{low}-{high} has a port of {frontend}, where service {name} listens"
                yield ConfigError(f"{path}.snat_ports", problem, "take ports at which no service listens")
                break


def _lanes(service: Service) -> Iterator[_Lane]:
    """Where its connections may come from. Which address a masquerade takes is not known here."""
    says = service.source_nat
    masquerades = any(snat.kind == "masquerade" for snat in says.answers)
    for family in service.families():
        addresses = [address for snat in says.answers for address in snat.of(family)]
        for protocol in service.protocols:
            yield from (
                (family, protocol, address) for address in ([_ALL] if masquerades else dict.fromkeys(addresses))
            )


def _outward(rule: Egress) -> Iterator[_Lane]:
    for family in rule.families():
        for protocol in [rule.protocol] if rule.protocol else PROTOCOLS:
            yield family, protocol, rule.snat_address or _ALL


class _Listening:
    """Who listens on a port; on `*` it is every address."""

    def __init__(self, services: Iterable[Service]) -> None:
        found: dict[_Lane, list[tuple[int, int, Frontend, str]]] = {}
        self._networks = {family: NetworkIndex() for family in FAMILIES}
        for service in services:
            for frontend in service.frontends():
                if frontend.is_network:
                    self._networks[frontend.family].add(str(frontend.address))
                # `*` is of no lane of its own: whoever asks for an address asks for that one as well.
                for address in (frontend.address or "*", _ALL):
                    found.setdefault((frontend.family, frontend.protocol, address), []).append(
                        (frontend.low, frontend.high, frontend, service.name)
                    )
        #: By their first ports, and of all up to each the one that ends last.
        self._lanes: dict[_Lane, tuple[list[int], list[tuple[int, int, Frontend, str]]]] = {}
        for lane, listed in found.items():
            listed.sort(key=lambda item: item[:2])
            widest = listed[:1]
            for item in listed[1:]:
                widest.append(max(widest[-1], item, key=lambda each: each[1]))
            self._lanes[lane] = ([item[0] for item in listed], widest)

    def meeting(self, lane: _Lane, ports: Range) -> tuple[Frontend, str] | None:
        """One that has some of these ports, and the name of its service."""
        family, protocol, address = lane
        around = () if address == _ALL else self._networks[family].around(address)
        for each in dict.fromkeys((address, "*", *around)):
            lows, widest = self._lanes.get((family, protocol, each), ([], []))
            at = bisect.bisect_right(lows, ports[1]) - 1
            if at >= 0 and widest[at][1] >= ports[0]:
                return widest[at][2], widest[at][3]
        return None


def room(service: Service) -> int | None:
    """How many connections at a time one backend can have by these ports; None where they are not limited."""
    if service.snat_ports is None:
        return None
    low, high = service.snat_ports
    found = [
        max(1, len(snat.of(family)))
        for snat in service.source_nat.answers
        if snat.kind != "none"
        for family in service.families()
        if snat.kind == "masquerade" or snat.of(family)
    ]
    return (high - low + 1) * min(found, default=1)


def text(ports: Range) -> str:
    """As it is declared."""
    return ports_text(*ports)
