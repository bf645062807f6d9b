# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many clients affinity and limits know, of how many that there is room for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Optional

from .model import Config, Service
from .nftables_text import affinity_set, count_set, rate_set

#: From this fill level on there is a warning.
WARN_FROM = 0.8

AFFINITY = "affinity"
COUNT = "max_connections_per_client"
RATE = "new_connections_per_second"


@dataclass(frozen=True)
class Known:
    """Clients in a set or list that packets fill; `beyond` says what becomes of more than `most`, where it is not just
    that the oldest is forgotten."""

    count: int
    most: int
    beyond: str

    @property
    def nearly_full(self) -> bool:
        return bool(self.beyond and self.most) and self.count >= WARN_FROM * self.most


#: By service and option. An option that is off is not there; None where it cannot be told.
KnownClients = dict[tuple[str, str], Optional[Known]]


def fullest(found: Iterable[Known]) -> Known | None:
    """Of the sets of one option (a family's, a backend's): the one that has no room first."""
    return max(found, key=lambda known: known.count / (known.most or 1), default=None)


def options(service: Service) -> list[str]:
    """Those of the service's options that keep something for each client."""
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
    """What to say of sets that are nearly full."""
    for (service, option), known in found.items():
        if known is not None and known.nearly_full:
            yield (
                f"service {service}: {option} knows {known.count} clients, {100 * known.count // known.most} % of the "
                f"{known.most} that there is room for; {known.beyond}"
            )


# -- nftables --------------------------------------------------------------------------------------------------------

_BEYOND = {
    AFFINITY: (
        "more are served without being remembered until the time of another is over: a shorter time makes room, and "
        "method: source_hash needs none"
    ),
    COUNT: "more have no limit until another has closed its connections",
    RATE: "more have no limit until another has opened none for a minute",
}

#: A set that packets fill, as nft lists it.
_SET = re.compile(
    r"^\tset (\S+) \{\n((?:\t\t(?!elements).*\n)*?\t\tflags dynamic.*\n(?:\t\t(?!elements).*\n)*)"
    r"(?:\t\telements = \{([^}]*)\})?",
    re.MULTILINE,
)
_SIZE = re.compile(r"^\t\tsize (\d+)", re.MULTILINE)


def of_nftables(config: Config, listing: str) -> KnownClients:
    """From a listing of our tables with their state. For affinity, the fullest set of a backend counts."""
    sets = _filled(config, listing)
    found: KnownClients = {}
    for service in config.services:
        for option, names in _set_names(service).items():
            known = fullest(count for name in names for count in sets.get(name, ()))
            found[service.name, option] = replace(known, beyond=_BEYOND[option]) if known else None
    return found


def _filled(config: Config, listing: str) -> dict[str, list[Known]]:
    """Sets by name; both families may have one of a name."""
    found: dict[str, list[Known]] = {}
    if any(options(service) for service in config.services):
        for name, header, elements in _SET.findall(listing):
            size = _SIZE.search(header)
            count = elements.count(",") + 1 if elements.strip() else 0
            found.setdefault(name, []).append(Known(count, int(size[1]) if size else 0, ""))
    return found


def _set_names(service: Service) -> Mapping[str, list[str]]:
    names = {
        AFFINITY: [affinity_set(service, backend) for backend in service.backends],
        COUNT: [count_set(service)],
        RATE: [rate_set(service)],
    }
    return {option: names[option] for option in options(service)}
