# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What foreign rules do to our packets at other hooks than forward: drop them, translate them, or exclude them from
tracking.

Each place has its own set of packets (`walk.py`). Before our translation a client's packet goes to the frontend, after
it to a backend. An answer comes from a backend. A warning is given only if every path through the chains has the same
effect on a packet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import NamedTuple

from ..host.nf_tables import TableFamily
from ..host.routes import Network, Ways
from ..model.entities import Config, Frontend
from ..model.spelling import is_everything
from .forward_path import TRIED, Affected, Routes, affected, elsewhere, packets, ways
from .walk import Chains, Owner, Packet, ends

#: Connection tracking looks a packet up at this priority; before, nobody knows its connection.
_TRACKED = -200
#: The priority of translation, of whichever of our engines.
_DNAT, _SNAT = -100, 100
_NAMED = 3


class Place(NamedTuple):
    """A base chain and where it is hooked in. `kind` is filter or nat."""

    chains: Chains
    family: TableFamily
    hook: str
    kind: str
    priority: int
    devices: tuple[str, ...] = ()
    #: Of nat, whether it comes before ours: yes, no or maybe.
    before: str = "no"
    #: The chain of ours that it leads to.
    stop: str = ""

    def sees_translated(self, filtered: Collection[str]) -> bool:
        """Of a bridge, whether our rules come first, where its frames of these families pass them (br_netfilter)."""
        behind = self.hook != "prerouting" or self.priority > 0
        return self.family == "bridge" and behind and self.chains.family in filtered


class Traffic:
    """The packets of a configuration, computed on first use."""

    def __init__(self, config: Config, routes: Routes, local: Collection[str], bridges: Collection[str] = ()) -> None:
        """`local` are the addresses of this host, `bridges` its interfaces that are one."""
        self._config, self._routes, self._local, self._bridges = config, routes, local, bridges

    def at(self, place: Place) -> list[tuple[list[Packet], set[str]]]:
        """The packets that pass there, and the ends that prevent what we would do with them.

        An `accept` affects only the later rules of the same base chain, so the position of our rules matters.
        """
        skipped = {"accept"} if place.stop else set()
        if place.kind != "nat":
            return [(self._filtered(place), {"deny", "untrack"})]
        if place.hook == "prerouting":
            return [(self._first, {"translate", "deny"} | skipped)]
        return [(self._seen, {"translate", "deny"} | skipped), (self._masqueraded, {"deny"} | skipped)]

    def _filtered(self, place: Place) -> list[Packet]:
        if place.hook == "postrouting":
            first = [_sent(packet) for packet in self._forwarded if packet.state == "new"]
            return self._forwarded if place.priority < _SNAT else first
        if place.hook == "prerouting" and place.family != "bridge" and place.priority > _DNAT:
            return [replace(packet, outside=frozenset()) for packet in self._forwarded]
        found = [_untold(packet) for packet in self._arriving] if place.priority <= _TRACKED else self._arriving
        if place.family == "bridge":
            by_bridge = [packet for packet in self._arriving if packet.inside and packet.inside <= {*self._bridges}]
            # There it is known by which port a frame comes in, not here.
            return [_untold(replace(packet, inside=frozenset())) for packet in by_bridge]
        if place.hook == "ingress":
            return [_untold(packet) for packet in self._arriving if packet.inside and packet.inside <= {*place.devices}]
        return found

    @cached_property
    def _first(self) -> list[Packet]:
        """A client's first packet to each frontend (the first `TRIED` of them), before it is translated."""
        found: list[Packet] = []
        lookup = Ways(self._routes)
        # Tables may hold a million routes, so each is looked through once for a family or a set of interfaces.
        defaults = {family: ways(self._routes, family, None) for family in self._config.families()}
        others: dict[frozenset[str], tuple[Network, ...]] = {}
        frontends = ((service, frontend) for service in self._config.services for frontend in service.frontends())
        for service, frontend in islice(frontends, TRIED):
            near = lookup.interface(frontend.address) if frontend.address and not frontend.is_network else ""
            inside = frozenset(
                {frontend.interface} if frontend.interface else {*defaults[frontend.family], near} - {""}
            )
            if inside not in others:
                others[inside] = elsewhere(self._routes, inside)
            found.append(
                Packet(
                    owners=(Owner("service", service.name),),
                    family=frontend.family,
                    protocol=frontend.protocol,
                    state="new",
                    dnat=False,
                    inside=inside,
                    outside=frozenset(),
                    target=_target(frontend),
                    port=frontend.low,
                    not_source=others[inside],
                    local=None if frontend.is_network else frontend.address is None or frontend.address in self._local,
                )
            )
        return found

    @cached_property
    def _forwarded(self) -> list[Packet]:
        """First packets and answers as the host forwards them; egress too."""
        return packets(self._config, self._routes)

    @cached_property
    def _arriving(self) -> list[Packet]:
        """All incoming packets before translation. The destination of an answer is not known there."""
        others = [packet for packet in self._forwarded if packet.state != "new" or not packet.dnat]
        return [
            *self._first,
            *(replace(p, outside=frozenset(), target=None, not_target=()) if p.state != "new" else p for p in others),
        ]

    @cached_property
    def _seen(self) -> list[Packet]:
        """First packets of services that say by which address backends see their clients."""
        return self._leaving(masquerade=False)

    @cached_property
    def _masqueraded(self) -> list[Packet]:
        """First packets of all others; whose masquerade they get does not matter."""
        return self._leaving(masquerade=True)

    def _leaving(self, masquerade: bool) -> list[Packet]:
        services = tuple(item for item in self._config.services if item.source_nat.always_masquerades == masquerade)
        found = packets(replace(self._config, services=services, egress=()), self._routes)
        return [packet for packet in found if packet.state == "new"]


def _untold(packet: Packet) -> Packet:
    """The packet before connection tracking."""
    return replace(packet, state="")


def _sent(packet: Packet) -> Packet:
    """The packet after the translation of sources, which also restores those of answers."""
    return replace(packet, source=None, not_source=())


# -- what is told --------------------------------------------------------------------------------------------------


def warnings(places: Iterable[Place], traffic: Traffic) -> Iterator[str]:
    """What happens to packets at each place, in one line for each kind of end."""
    for place in places:
        for tried, bad in traffic.at(place):
            mine = [packet for packet in tried if packet.family == place.chains.family]
            found: dict[str, list[Packet]] = {}
            whys: dict[str, str] = {}
            for packet in mine:
                reached = ends(place.chains, packet, place.stop)
                verdict = min(end.verdict for end in reached)
                if all(end.verdict in bad for end in reached):
                    found.setdefault(verdict, []).append(packet)
                    whys.setdefault(verdict, min(end.why for end in reached))
            for verdict, hit in found.items():
                yield _text(place, verdict, _owners(hit, mine), whys[verdict])


def _target(frontend: Frontend) -> str | None:
    """The address or network that its packets go to, as far as it is known."""
    return None if frontend.is_network and is_everything(str(frontend.address)) else frontend.address


def _owners(hit: Sequence[Packet], tried: Sequence[Packet]) -> list[str]:
    """The owners of these packets, with the backends if only some are affected (unknown for a frontend)."""
    whole: list[Owner] = []
    part: list[Affected] = []
    for translated in (False, True):
        some = [packet for packet in hit if packet.dnat == translated]
        for owner in affected(some, [packet for packet in tried if packet.dnat == translated]) if some else ():
            if owner.backends:
                part.append(owner)
            else:
                whole.append(owner.owner)
    return [*map(str, dict.fromkeys(whole)), *(str(owner) for owner in part if owner.owner not in whole)]


def _text(place: Place, verdict: str, owners: Sequence[str], why: str) -> str:
    named = ", ".join(owners[:_NAMED]) + (", …" if len(owners) > _NAMED else "")
    where = f"{place.chains.place} ({why})"
    if verdict == "deny":
        return f"{named}: packets are dropped by {where}; natlb changes no foreign rules: let these packets pass there"
    if verdict == "untrack":
        return (
            f"{named}: packets are not tracked because of {where}, and untracked packets are not translated; "
            f"remove that rule, or exclude these packets from it"
        )
    comes = "comes before natlb's rules"
    if place.before == "maybe":
        comes = "has the same priority as natlb's rules, so it comes first whenever it was loaded last"
    if place.hook == "postrouting":
        return f"{named}: source addresses differ from snat because of {where}, which {comes}; narrow that rule"
    what = "connections are translated by" if verdict == "translate" else "connections bypass natlb's rules because of"
    return f"{named}: {what} {where}, which {comes}; remove that rule, or choose another frontend"
