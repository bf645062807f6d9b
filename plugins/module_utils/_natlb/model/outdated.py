# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overrides and findings that a declaration ends, since their backends are removed or declared differently.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Optional

from .effective import Finding, Findings, Override, Overrides, Place, places, whole
from .entities import Config

#: State and weight of backends as the last run declared them; None where that is not known.
Former = Optional[Mapping[Place, tuple[Any, Any]]]


def lasting_overrides(overrides: Overrides, config: Config, former: Former) -> tuple[dict[Place, Override], list[str]]:
    """The overrides that outlive this declaration, and a line for each that does not.

    A run that declares another `state` or `weight` of a backend than the last run undoes its override. Of an override
    for several services it undoes the part of that service.
    """
    if not overrides:
        return {}, []
    meant = _meant(overrides, config)
    kept: dict[Place, Override] = {}
    said: list[str] = []
    for place, override in overrides.items():
        redeclared = [own for own, item in meant[place].items() if former and _differs(former.get(own), item)]
        if not meant[place]:
            said.append(f"the override for {place} is removed: no such backend is declared")
        elif len(redeclared) == len(meant[place]):
            said.append(f"the override for {place} is undone: this run declares another state or weight than the last")
        else:
            kept[place] = override
            kept.update({own: Override("active") for own in redeclared if own not in overrides})
            said += [
                f"the override for {place} is undone in {own.service}, whose declaration of it has changed"
                for own in redeclared
            ]
    excepted = {own for place in kept if place.service is None for own in meant.get(place, ())}
    excepted |= {place for place in kept if place.service is None and place._replace(port=None) in kept and place.port}
    return {place: item for place, item in kept.items() if not item.idle or place in excepted}, said


def _differs(former: tuple[Any, Any] | None, declared: tuple[str, int]) -> bool:
    """What an older or a damaged file does not say may have been the same."""
    return former is not None and None not in former and former != declared


def _meant(overrides: Overrides, config: Config) -> dict[Place, dict[Place, tuple[str, int]]]:
    """By the place of each override the backends that it means, with their declared state and weight."""
    found: dict[Place, dict[Place, tuple[str, int]]] = {place: {} for place in overrides}
    addresses = {place.address for place in overrides}
    for service in config.services:
        for backend in service.backends:
            if backend.address in addresses:
                own, *general = places(service, backend)
                for place in (own, *general):
                    if place in found:
                        found[place][own] = backend.state, backend.weight
    return found


def lasting_findings(findings: Findings, config: Config, former: Former) -> dict[Place, Finding]:
    """The findings that are about backends whose health is to be checked.

    A backend that the last run did not declare cannot have been checked since. Its finding is older. That a service is
    below its quorum is kept as long as it has one.
    """
    checked = set(_checked(config)) if findings else set()
    below = set(_with_quorum(config)) if findings else set()
    return {
        place: finding
        for place, finding in findings.items()
        if (place in checked and (former is None or place in former)) or place in below
    }


def _with_quorum(config: Config) -> Iterator[Place]:
    for service in config.services:
        if service.quorum is not None:
            yield from (whole(service.name, family) for family in service.families())


def _checked(config: Config) -> Iterator[Place]:
    for service in config.services:
        if service.health is not None:
            yield from (Place(service.name, backend.address, backend.port) for backend in service.backends)
