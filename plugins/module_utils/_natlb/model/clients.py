# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number of clients that affinity and limits know, and their maximum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Optional

from .entities import Service

#: From this fill level on there is a warning.
WARN_FROM = 0.8

AFFINITY = "affinity"
COUNT = "max_connections_per_client"
RATE = "new_connections_per_second"


@dataclass(frozen=True)
class Known:
    """Clients in a set or list that packets fill. `beyond` says what happens to more than `most`, unless the oldest is
    simply forgotten."""

    count: int
    most: int
    beyond: str

    @property
    def nearly_full(self) -> bool:
        return bool(self.beyond and self.most) and self.count >= WARN_FROM * self.most


#: By service and option. An option that is off is not there; None where it cannot be told.
KnownClients = dict[tuple[str, str], Optional[Known]]


def fullest(found: Iterable[Known]) -> Known | None:
    """The fullest set of one option (of a family or a backend)."""
    return max(found, key=lambda known: known.count / (known.most or 1), default=None)


def options(service: Service) -> list[str]:
    """The options of the service that store something for each client."""
    return [name for name, value in _values(service).items() if value]


def _values(service: Service) -> dict[str, int]:
    return {
        AFFINITY: service.affinity_s,
        COUNT: service.max_connections_per_client,
        RATE: service.new_connections_per_second,
    }


def shown(service: Service, found: KnownClients) -> dict[str, dict[str, int] | None]:
    """As `balancer_info` returns it."""
    known = {option: found.get((service.name, option)) for option in (AFFINITY, COUNT, RATE)}
    return {option: {"count": item.count, "max": item.most} if item else None for option, item in known.items()}


def warnings(found: KnownClients) -> Iterator[str]:
    """Warnings about sets that are nearly full."""
    for (service, option), known in found.items():
        if known is not None and known.nearly_full:
            yield (
                f"service {service}: {option} knows {known.count} clients, {100 * known.count // known.most} % of the "
                f"possible {known.most}; {known.beyond}"
            )


# -- nftables --------------------------------------------------------------------------------------------------------
