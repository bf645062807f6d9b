# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many clients the sets of nftables know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ..model.clients import AFFINITY, COUNT, RATE, Known, KnownClients, fullest, options
from ..model.entities import Config, Service
from .names import affinity_set, count_set, rate_set

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
