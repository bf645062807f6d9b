# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""UDP and the connections that the kernel remembers.

A UDP client that keeps its socket keeps its tracked connection, and with it its backend, its source NAT and its right
to be served, for as long as it goes on sending: also after the backend is gone, where the client is not allowed any
more, or where it began before there was a service. Such entries are deleted, so that the next packet meets the rules as
it would for the first time. TCP and SCTP are never cut: their peers notice by themselves.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import NamedTuple, Optional

from ..errors import HostError
from ..host import addresses, proc
from ..host import flows as tracked
from ..host.flows import Flow
from ..model.entities import STATES, Config, Frontend, Service
from ..model.left_to_the_host import NOT_IN_NETWORKS, is_wild
from ..model.precedence import Packet, possible, takes
from ..model.ranges import is_in, number_range
from ..model.territory import territory_of
from ..packets import FAMILIES, Family, Protocol

Peer = tuple[str, int]


class _Owned(NamedTuple):
    frontend: Frontend
    service: Service


#: Ranges of ports by interface.
_Ways = dict[Optional[str], list[tuple[int, int, _Owned]]]
#: Above each port.
_BEYOND = 1 << 16


class Frontends:
    """Finds the services that a target address and port may belong to: one, or one of each interface."""

    def __init__(self, config: Config, protocol: Protocol, local: set[str]) -> None:
        self._exact: dict[Peer, list[_Owned]] = {}
        #: What each frontend has on one address (None: on every local one) and one interface does not overlap with what
        #: others have, so it can be searched.
        self._ranges: dict[tuple[Family, str | None], _Ways] = {}
        #: The same of networks, by how many bits of an address they leave open, and the others.
        self._networks: dict[Family, dict[int, dict[int, _Ways]]] = {"ip": {}, "ip6": {}}
        self._local, self._protocol = local, protocol
        #: There may be many connections, and ten thousand services.
        self._by_backend: dict[str, list[Service]] = {}
        whole = territory_of(config)
        for service in config.services:
            if protocol not in service.protocols:
                continue
            for address in {backend.address for backend in service.backends}:
                self._by_backend.setdefault(address, []).append(service)
            for frontend in whole.of(service):
                if frontend.protocol != protocol:
                    continue
                owned = _Owned(frontend, service)
                if frontend.address is not None and not frontend.spans and not frontend.is_network:
                    self._exact.setdefault((frontend.address, frontend.low), []).append(owned)
                else:
                    self._ways(frontend).setdefault(frontend.interface, []).append((frontend.low, frontend.high, owned))
        every = [*self._ranges.values()]
        for lengths in self._networks.values():
            every += [ways for found in lengths.values() for ways in found.values()]
        for ways in every:
            for ranges in ways.values():
                ranges.sort(key=lambda item: item[:2])

    def _ways(self, frontend: Frontend) -> _Ways:
        if not frontend.is_network:
            return self._ranges.setdefault((frontend.family, frontend.address), {})
        low, high = number_range(str(frontend.address))
        open_bits = (low ^ high).bit_length()
        return self._networks[frontend.family].setdefault(open_bits, {}).setdefault(low >> open_bits, {})

    def on(self, local: set[str]) -> Frontends:
        """The same on a host that has these addresses by now."""
        found = copy(self)
        found._local = local
        return found

    def __bool__(self) -> bool:
        return bool(self._exact or self._ranges or any(self._networks.values()))

    def find(self, family: Family, target: str, port: int, source: str = "", direct: bool = False) -> list[Service]:
        """The most specific one first. Which of several it is would be told by the interface, of which nothing is known
        once it is tracked.

        `source` is where it began, if that is known. Of one that is `direct`, which goes where it was sent to, a
        network on an interface need not be the way: this host may forward all kinds of connections.
        """
        found = list(self._exact.get((target, port), ()))
        places = [self._ranges.get((family, target), {})]
        if target in self._local and is_wild(target):
            places.append(self._ranges.get((family, None), {}))
        if self._networks[family] and (target in self._local or source not in self._local):
            places += self._around(family, target, direct)
        for place in places:
            for ranges in place.values():
                at = bisect.bisect_right(ranges, (port, _BEYOND)) - 1
                if at >= 0 and port <= ranges[at][1]:
                    found.append(ranges[at][2])
        if len(found) < 2:
            return [owned.service for owned in found]
        owners = {owned.frontend: owned.service for owned in found}
        return [owners[frontend] for frontend in possible(owners)]

    def _around(self, family: Family, target: str, direct: bool) -> Iterator[_Ways]:
        """What networks have at an address."""
        if any(is_in(network, target) for network in NOT_IN_NETWORKS[family]):
            return
        _version, number = addresses.number(target)
        for open_bits, known in self._networks[family].items():
            ways = known.get(number >> open_bits, {})
            yield {None: ways[None]} if direct and None in ways else {} if direct else ways

    def owners(
        self, family: Family, target: Peer, backend: Peer, narrowed: Mapping[str, Service] | None = None
    ) -> list[Service]:
        """The same of a connection to this backend, of those that have it. If none of them has it, the connection may
        have begun before there was such a specific service: then it is of one that is less so. `narrowed` are, by their
        names, services of which only these backends count."""
        address, port = target
        as_asked = narrowed or {}

        def has(service: Service) -> bool:
            return any(as_asked.get(service.name, service).backends_at(backend, port))

        found = self.find(family, address, port)
        mine = list(filter(has, found))
        if mine or not found:
            return mine
        local = address in self._local
        claims = {
            frontend: service
            for service in filter(has, self._by_backend.get(backend[0], ()))
            for frontend in service.frontends()
            if takes(frontend, Packet(family, self._protocol, address, port, local, frontend.interface or ""))
        }
        return [claims[frontend] for frontend in possible(claims)]


def answers(service: Service, flow: Flow, states: Iterable[str] = STATES) -> bool:
    """Whether one of the service's backends is the one that answers."""
    wanted = set(states)
    found = service.backends_at((flow.answerer, flow.answerer_port), flow.target_port)
    return any(backend.state in wanted for backend in found)


def stale(flows: Iterable[Flow], before: Frontends, after: Frontends) -> list[Flow]:
    """The flows that must begin anew.

    What is declared has to allow a flow: a backend that it has behind the frontend answers it (drained ones count), and
    its client may come. And for each service that may have made it there has to be one now that would make it the same
    way: with the same source NAT, and open to the interface by which it came. Which that was is not known, so where one
    interface of several is closed, or one source NAT of several changes, the flows of the others begin anew as well.
    Where nothing is declared any more, those go that a backend of the former service answers.
    """
    found = []
    for flow in flows:
        then = [s for s in before.find(flow.family, flow.target, flow.target_port) if answers(s, flow)]
        # With no backend at all packets are refused, which deletes their entries by itself.
        direct = (flow.answerer, flow.answerer_port) == (flow.target, flow.target_port)
        now = after.find(flow.family, flow.target, flow.target_port, flow.source, direct)
        allowed = [s for s in now if answers(s, flow, ("active", "drained")) and s.admits(flow.source)]
        if now or then:
            kept = bool(allowed) and all(any(_same_way(one, other, flow) for other in allowed) for one in then)
            found += [] if kept else [flow]
    return found


def _same_way(then: Service, now: Service, flow: Flow) -> bool:
    """Whether what came in by one service would come in by the other, and be seen the same by the backend."""
    if now.interface not in (None, then.interface):
        return False
    one, other = (service.source_nat.of(flow.source, flow.answerer) for service in (then, now))
    return (one.kind, one.ports) == (other.kind, other.ports) and set(one.of(flow.family)) == set(other.of(flow.family))


def delete_stale(previous: Config, config: Config) -> list[str]:
    """Delete stale UDP entries. Returns warnings; that conntrack(8) is missing is one, since the rules do stand."""
    local = proc.local_addresses()
    before, after = Frontends(previous, "udp", local), Frontends(config, "udp", local)
    if not before and not after:
        return []
    try:
        for family in FAMILIES:
            tracked.delete(stale(tracked.listed(family, "udp"), before, after))
    except HostError as error:
        until = "until they pause for 30 s or longer"
        return [f"UDP clients may keep a removed backend, or an access that they no longer have, {until}: {error}"]
    return []
