# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conflicts between services: two with one name, or two that claim the same packets."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from .entities import Frontend, Service
from .overlaps import overlaps

#: More pairs that overlap are not told: of ten thousand services on one port there are fifty million.
MOST_OVERLAPS = 100


def between(services: Mapping[int, Service]) -> list[ConfigError]:
    """The conflicts between services, each with its place in the declaration."""
    errors: list[ConfigError] = []
    names: dict[str, int] = {}
    for index, service in services.items():
        if service.name in names:
            errors.append(
                ConfigError(
                    f"services[{index}].name",
                    f"{service.name} is the name of services[{names[service.name]}] already",
                    "give each service a name of its own",
                )
            )
        names.setdefault(service.name, index)
    claims = [(frontend, index) for index, service in services.items() for frontend in service.frontends()]
    seen: set[tuple[int, int]] = set()
    for (first, one), (second, two) in overlaps(claims):
        low, high = sorted((one, two))
        if (low, high) not in seen:
            seen.add((low, high))
            errors.append(_overlap_error(services, (low, high), first, second))
        if len(seen) == MOST_OVERLAPS:
            break
    return errors


def _overlap_error(
    services: Mapping[int, Service], pair: tuple[int, int], first: Frontend, second: Frontend
) -> ConfigError:
    low, high = pair
    if low == high:
        return ConfigError(
            f"services[{low}].listen", f"claims {first} and {second}, which overlap", "name each address and port once"
        )
    return ConfigError(
        f"services[{high}].listen",
        f"{services[high].name} and {services[low].name} (services[{low}]) both claim {first}",
        "an address, port and protocol belong to one service; change one of the two",
    )
