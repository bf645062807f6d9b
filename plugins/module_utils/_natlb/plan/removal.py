# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warns about a declaration that takes away what nobody may have meant to.

A misspelt group name or a missing file makes a declaration that is valid but much too small. A service that is added
may keep another one from taking connections over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from ..model import takeover
from ..model.entities import Config, dump
from ..model.values import mappings
from . import request as requests

_SHOWN = 5
#: So many services that take over no longer are told of by themselves.
_TOLD = 3


def warnings(state: Mapping[str, Any], config: Config) -> list[str]:
    """One line where all services go, or more than half of several, and one where all egress rules go.

    `state` is what the last run has kept (`store.read_state`). A service that only has another name now stays.
    """
    before = mappings(state.get("services"))
    gone = _gone(before, config)
    found = []
    if _many(gone, before):
        listed = ", ".join(gone[:_SHOWN]) + (f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else "")
        found.append(
            f"services: {len(gone)} of the {len(before)} services of this host are removed: {listed} "
            f"(declare them again to keep them)"
        )
    ways = mappings(state.get("egress"))
    if ways and not config.egress:
        found.append(
            f"egress: all of the {len(ways)} egress rules of this host are removed (declare them again to keep them)"
        )
    return [*found, *_takeover_warnings(lost_takeovers(state, config))]


def _takeover_warnings(lost: Mapping[str, takeover.Obstacle]) -> Iterator[str]:
    more = f"; it is off for {len(lost) - _TOLD} more services" if len(lost) > _TOLD else ""
    for name, why in islice(lost.items(), _TOLD):
        yield (
            f"service {name}: takeover is off from now on, established connections of another balancer do not go on "
            f"here: {why.problem} ({why.remedy}, or declare takeover: false){more}"
        )


def lost_takeovers(state: Mapping[str, Any], config: Config) -> dict[str, takeover.Obstacle]:
    """Services that took over before this run and cannot now, since another frontend shares a backend's port."""
    shared = {name: why for name, why in takeover.obstacles(config.services).items() if why.sharing}
    # Those of the last run take long to read, so that is left until it matters.
    before = takeover.taking_over(requests.declared({**state, "egress": []}).services) if shared else ()
    return {name: why for name, why in shared.items() if name in before}


def _many(gone: Sequence[object], before: Sequence[object]) -> bool:
    return bool(gone) and (len(gone) == len(before) or len(gone) * 2 > len(before) > 2)


def _gone(before: Sequence[Mapping[str, Any]], config: Config) -> list[str]:
    """The names of services that are neither declared by that name nor listen anywhere any more."""
    names = {service.name for service in config.services}
    gone = [service for service in before if service.get("name") not in names]
    # Ten thousand services have as many frontends, which need not be looked at where hardly anything goes.
    frontends = set()
    if _many(gone, before):
        frontends = {place for service in dump(config)["services"] for place in _frontends(service)}
    return [str(service.get("name")) for service in gone if frontends.isdisjoint(_frontends(service))]


def _frontends(service: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    listens, protocols = service.get("listen"), service.get("protocol")
    if not isinstance(listens, list) or not isinstance(protocols, list):
        return set()
    return {(str(listen), str(protocol), str(service.get("interface"))) for listen in listens for protocol in protocols}
