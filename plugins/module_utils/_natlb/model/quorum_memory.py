# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is remembered of services that have fallen below their quorum. Pure.

They may need more backends to come back than they needed to stay (`quorum.py`).

A finding of all backends of a family is the memory. So it is kept, restored and ended with the findings of backends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .effective import WHOLES, Finding, Findings, Overrides, Place, effective_backends, quorums
from .entities import Service


def is_whole(place: Place) -> bool:
    """Whether it is that of a family, and not of a backend."""
    return place.address in WHOLES.values()


def remembering(services: Iterable[Service], overrides: Overrides, findings: Findings, now: str) -> Findings:
    """The findings, with one for each family of these services that is below its quorum, and none for the others.

    The same where nothing has crossed.
    """
    changed: dict[Place, Finding | None] = {}
    for service in services:
        if service.quorum is None:
            continue
        for count in quorums(service, effective_backends(service, overrides, findings), findings):
            if count.is_below != (count.place in findings):
                changed[count.place] = Finding("down", now, str(count)) if count.is_below else None
    if not changed:
        return findings
    kept = {place: finding for place, finding in findings.items() if place not in changed}
    return {**kept, **{place: finding for place, finding in changed.items() if finding is not None}}


class Crossed(NamedTuple):
    """A service that has fallen below its quorum, or is above it again."""

    service: str
    is_below: bool
    words: str


def crossed(before: Findings, after: Findings, services: Iterable[Service]) -> Iterator[Crossed]:
    """What differs between the memories of two findings. `services` are those that there are now: one that has gone, or
    has no quorum any more, is not above it again."""
    gone = [place.service for place in before if is_whole(place) and place not in after]
    quorate = {service.name for service in services if service.quorum is not None} if gone else set()
    for place in dict.fromkeys([*before, *after]):
        service = place.service
        if service is None or not is_whole(place) or (place in before) == (place in after):
            continue
        if place in after:
            yield Crossed(service, True, f"{service} is below min_healthy: {after[place].reason}")
        elif service in quorate:
            yield Crossed(service, False, f"{service} has enough healthy backends again")
