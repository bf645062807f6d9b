# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warns about a declaration that removes so much that it may be a mistake.

A misspelt group name or a missing file makes a declaration that is valid but much too small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..model.entities import Config, dump

_SHOWN = 5


def warnings(state: Mapping[str, Any], config: Config) -> list[str]:
    """One line where all services go, or more than half of several, and one where all egress rules go.

    `state` is what the last run has kept (`store.read_state`). A service that only has another name now stays.
    """
    before = _mappings(state.get("services"))
    gone = _gone(before, config)
    found = []
    if _many(gone, before):
        listed = ", ".join(gone[:_SHOWN]) + (f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else "")
        found.append(
            f"services: {len(gone)} of the {len(before)} services of this host are removed: {listed} "
            f"(declare them again to keep them)"
        )
    ways = _mappings(state.get("egress"))
    if ways and not config.egress:
        found.append(
            f"egress: all of the {len(ways)} egress rules of this host are removed (declare them again to keep them)"
        )
    return found


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


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    """Read with care: another version may have written it."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _frontends(service: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    listens, protocols = service.get("listen"), service.get("protocol")
    if not isinstance(listens, list) or not isinstance(protocols, list):
        return set()
    return {(str(listen), str(protocol), str(service.get("interface"))) for listen in listens for protocol in protocols}
