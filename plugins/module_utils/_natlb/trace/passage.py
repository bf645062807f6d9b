# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The chains of others that a packet of the connection passes: whether they let it.

A chain stops it only where every end that the packet may come to does. Where some do, a match cannot be decided from
here (a mark, a set, a rate), and the step is a doubt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from ..firewalls.obstacles import Place
from ..firewalls.walk import Chains, Packet, ends
from ..iptables.forward_rules import ROOT
from .steps import Step

_MEANS = {
    "deny": "is dropped by {}",
    "untrack": "is not tracked because of {}, and so not translated",
    "translate": "is translated by {} before natlb's rules",
    "accept": "bypasses natlb's rules because of {}",
}
_REMEDIES = {
    "deny": "let it pass there; natlb changes no rules of others",
    "untrack": "remove that rule, or exclude these packets from it",
    "translate": "remove that rule, or choose another frontend",
    "accept": "remove that rule, or choose another frontend",
}
_NAMED = 3


def at(where: str, what: str, places: Iterable[Place], packet: Packet) -> Iterator[Step]:
    """What the chains at one part of the way do to a packet; `what` names it."""
    passed: list[str] = []
    for place in places:
        if place.chains.family != packet.family:
            continue
        bad = {"deny", "untrack"} if place.kind != "nat" else {"translate", "deny", *(["accept"] if place.stop else [])}
        found = _judged(where, what, place.chains, packet, bad, place.stop)
        passed += [place.chains.place] if found is None else []
        if found is not None:
            yield found
    yield from _passed(where, what, passed)


def forward(where: str, what: str, chains: Iterable[tuple[Chains, str]], packet: Packet) -> Iterator[Step]:
    """The same of the forward hook, of chains and their remedies. An opening of natlb in a chain lets its connections
    pass."""
    passed: list[str] = []
    for item, remedy in chains:
        if item.family != packet.family:
            continue
        found = _judged(where, what, item, packet, {"deny"}, ROOT, remedy)
        passed += [item.place] if found is None else []
        if found is not None:
            yield found
    yield from _passed(where, what, passed)


def _judged(
    where: str, what: str, chains: Chains, packet: Packet, bad: Collection[str], stop: str, remedy: str = ""
) -> Step | None:
    """None where it passes for certain."""
    reached = ends(chains, packet, stop)
    hits = sorted(end for end in reached if end.verdict in bad)
    if not hits:
        return None
    verdict, why = hits[0]
    means = _MEANS[verdict].format(f"{chains.place} ({why})")
    if len(hits) == len(reached):
        return Step(where, "stops", f"{what} {means}", remedy or _REMEDIES[verdict])
    return Step(where, "may", f"it cannot be told from here whether {what} {means}")


def _passed(where: str, what: str, names: list[str]) -> Iterator[Step]:
    if names:
        more = ", …" if len(names) > _NAMED else ""
        yield Step(where, "ok", f"{what} passes {', '.join(names[:_NAMED])}{more}")
