# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether foreign rules let our forwarded connections pass.

The chains at the forward hook (`listing.py`) are followed with the packets of each service. A path is *closed* only if
every possible end (`walk.py`) is a denial. A run warns only then.

A packet passes only if every base chain at the hook accepts it. An `accept` in one base chain does not affect the
others (nft(8), "verdict statements").
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..host.addresses import number
from ..host.routes import Network
from ..model.entities import Config, Frontend
from ..model.spelling import is_everything
from ..packets import Family, Protocol, family_of
from .walk import Chains, Owner, Packet, ends

#: (network, interface) of each route in the main tables; no interface where a route refuses what it is for.
Routes = Sequence[tuple[Network, str]]
#: So many ways through the host are tried: about 20 ms, where ten thousand would be felt.
TRIED = 1000
#: Networks behind other interfaces that a packet is known not to come from.
_ELSEWHERE = 50
_NAMED = 3


# -- packets -------------------------------------------------------------------------------------------------------


def packets(config: Config, routes: Routes) -> list[Packet]:
    """A client's first packet and a backend's answer for each way that connections take; for egress too.

    A way is a backend with its port and protocol, and the interfaces by which clients come in: those of the frontend's
    network and of the default route. Services that share it share its packets.
    """
    found: list[Packet] = []
    for way, owners in _service_ways(config, routes).items():
        first = Packet(
            owners=tuple(dict.fromkeys(owners)),
            family=way.family,
            protocol=way.protocol,
            state="new",
            dnat=True,
            inside=way.inside,
            outside=frozenset(_way(routes, way.target)),
            target=way.target,
            port=way.port,
            not_source=elsewhere(routes, way.inside),
        )
        found += [first, _answer(first)]
    for item in config.egress[:TRIED]:
        for source in item.sources:
            family = family_of(source)
            to = next(iter(item.destinations_of(family)), None)
            to = None if to is None or is_everything(to) else to
            outs = set(item.ways()) or (set(_way(routes, to)) if to else ways(routes, family, None))
            first = Packet(
                owners=(Owner("egress of", source),),
                family=family,
                protocol=item.protocol,
                state="new",
                dnat=False,
                inside=frozenset(() if is_everything(source) else _way(routes, source)),
                outside=frozenset(filter(None, outs)),
                source=None if is_everything(source) else source,
                target=to,
                not_target=() if to else elsewhere(routes, outs),
                port=item.ports[0][0] if item.ports else None,
            )
            found += [first, _answer(first)]
    return found


class _ServiceWay(NamedTuple):
    family: Family
    protocol: Protocol
    inside: frozenset[str]
    target: str
    port: int


def _service_ways(config: Config, routes: Routes) -> dict[_ServiceWay, list[Owner]]:
    """The first `TRIED` ways, and the services that use each."""
    found: dict[_ServiceWay, list[Owner]] = {}
    networks: dict[tuple[Family, str | None], frozenset[str]] = {}
    for service in config.services:
        frontends: dict[tuple[Family, Protocol], Frontend] = {}
        for frontend in service.frontends():
            frontends.setdefault((frontend.family, frontend.protocol), frontend)
        for (family, protocol), frontend in frontends.items():
            if service.interface:
                inside = frozenset({service.interface})
            else:
                key = (family, None if frontend.is_network else frontend.address)
                if key not in networks:
                    networks[key] = frozenset(ways(routes, *key))
                inside = networks[key]
            for backend in service.serving(family) or [item for item in service.backends if item.family == family]:
                way = _ServiceWay(family, protocol, inside, backend.address, backend.port_at(frontend.low))
                if way in found or len(found) < TRIED:
                    found.setdefault(way, []).append(Owner("service", service.name))
    return found


def _answer(packet: Packet) -> Packet:
    return replace(
        packet,
        state="established",
        inside=packet.outside,
        outside=packet.inside,
        source=packet.target,
        target=packet.source,
        port=None,
        not_source=packet.not_target,
        not_target=packet.not_source,
    )


def _way(routes: Routes, address: str) -> set[str]:
    """The interface of the most specific route to an address or network; empty where there is none."""
    first, _slash, length = address.partition("/")
    version, wanted = number(first)
    bits = 128 if version == 6 else 32
    best: tuple[int, str] | None = None
    for network, interface in routes:
        if network.version == version and network.prefixlen <= int(length or bits):
            rest = bits - network.prefixlen
            within = wanted >> rest == int(network.network_address) >> rest
            if within and (best is None or network.prefixlen > best[0]):
                best = (network.prefixlen, interface)
    return {best[1]} if best and best[1] else set()


def elsewhere(routes: Routes, interfaces: Collection[str | None]) -> tuple[Network, ...]:
    """The networks that are reached by other interfaces than these; none if these are not known."""
    if not interfaces:
        return ()
    return tuple(n for n, way in routes if n.prefixlen and way and way not in interfaces)[:_ELSEWHERE]


def ways(routes: Routes, family: Family, address: str | None) -> set[str]:
    """Where clients come from: the interfaces of the default routes, and the one in the address's network."""
    version = 6 if family == "ip6" else 4
    found = {way for network, way in routes if way and network.prefixlen == 0 and network.version == version}
    return found | (_way(routes, address) if address else set())


# -- findings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A base chain that certainly denies our packets: the owners of the packets, and the first denial that they
    meet."""

    place: str
    why: str
    owners: tuple[str, ...]
    dnat: bool
    sources: tuple[str, ...]

    def text(self) -> str:
        """The owners of the connections and the denial, on one line."""
        named = ", ".join(self.owners[:_NAMED]) + (", …" if len(self.owners) > _NAMED else "")
        return f"{named}: connections are not forwarded, because of {self.place} ({self.why})"


def denial(chains: Chains, tried: Sequence[Packet], stop: str = "") -> Finding | None:
    """What in these chains denies our packets; None if every packet may pass."""
    whys: list[str] = []
    denied: list[Packet] = []
    for packet in tried:
        if packet.family == chains.family:
            reached = ends(chains, packet, stop)
            if all(end.verdict == "deny" for end in reached):
                denied.append(packet)
                whys += sorted(end.why for end in reached)
    if not denied:
        return None
    return Finding(
        place=chains.place,
        why=whys[0],
        owners=tuple(map(str, affected(denied, tried))),
        dnat=any(packet.dnat for packet in denied),
        sources=tuple(dict.fromkeys(p.owners[0].name for p in denied if not p.dnat)),
    )


class Affected(NamedTuple):
    """Somebody whose packets are denied; only those to some `backends`, or all where there are none."""

    owner: Owner
    backends: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.owner} to {' and '.join(self.backends)}" if self.backends else str(self.owner)


def affected(denied: Sequence[Packet], tried: Sequence[Packet]) -> tuple[Affected, ...]:
    """The owners of the denied packets, with the backends if only some are affected."""
    ways: dict[Owner, dict[str, None]] = {}
    for packet in denied:
        for owner in packet.owners:
            ways.setdefault(owner, {})[_backend(packet)] = None
    every: dict[Owner, set[str]] = {owner: set() for owner in ways}
    for packet in tried:
        if packet.family == denied[0].family:
            for owner in packet.owners:
                if owner in every:
                    every[owner].add(_backend(packet))
    return tuple(
        Affected(owner) if len(some) == len(every[owner]) else Affected(owner, tuple(some))
        for owner, some in ways.items()
    )


def _backend(packet: Packet) -> str:
    """The backend's address; of egress there is only one way for each source."""
    return (packet.target if packet.state == "new" else packet.source) or "" if packet.dnat else ""


def may_deny(chains: Chains, tried: Sequence[Packet], stop: str = "") -> bool:
    """Whether some packet of ours may be denied, even if only by a rule whose matches cannot be decided."""
    mine = [packet for packet in tried if packet.family == chains.family]
    return any(end.verdict == "deny" for packet in mine for end in ends(chains, packet, stop))
