# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backend whose ports are so far from those that clients ask for: `9000-9010`, or `+1000`. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, NamedTuple

from ..errors import ConfigError
from . import values
from .ranges import Range

#: In one service. On nftables each is an element of a map.
MAX_SHIFTED = 4096
_SHIFT = re.compile(r"[+-][0-9]{1,5}")
_RANGE = re.compile(r"[0-9]+-[0-9]+")
_HIGHEST = 65535


class PortAsGiven(NamedTuple):
    """One port, or how far ports are shifted, or the range that they come to."""

    port: int | None = None
    shift: int = 0
    ports: Range | None = None


NO_PORT = PortAsGiven()


def read_port(value: Any, path: str) -> PortAsGiven:
    """As a user types it. Raises `ConfigError`."""
    text = value.strip() if isinstance(value, str) else ""
    if _SHIFT.fullmatch(text):
        return PortAsGiven(shift=int(text))
    if _RANGE.fullmatch(text):
        low, high = values.port_range(text, path)
        return PortAsGiven(ports=(low, high)) if low != high else PortAsGiven(low)
    return PortAsGiven(values.port(value, path))


def resolved(given: PortAsGiven, listens: Collection[Range], path: str) -> tuple[int | None, int]:
    """The one port of a backend, or None and how far its ports are from those of the service, which listens on these
    ranges. Raises `ConfigError` where that cannot be."""
    if given.port is not None or not listens:
        return given.port, 0
    shift = given.shift
    if given.ports:
        shift = _between(given.ports, set(listens), path)
    if not shift:
        return None, 0
    for low, high in listens:
        if low + shift < 1 or high + shift > _HIGHEST:
            problem = f"{shift:+} leads from {low if shift < 0 else high} to {(low if shift < 0 else high) + shift}"
            raise ConfigError(path, problem, f"ports are 1-{_HIGHEST}")
    ports = {port for low, high in listens for port in (low, high)}
    if len(ports) == 1:
        return ports.pop() + shift, 0
    count = sum(high - low + 1 for low, high in set(listens))
    if count > MAX_SHIFTED:
        raise ConfigError(path, f"{count} ports are shifted", f"at most {MAX_SHIFTED} in one service")
    return None, shift


def _between(ports: Range, listens: set[Range], path: str) -> int:
    text = f"{ports[0]}-{ports[1]}"
    if len(listens) > 1:
        remedy = 'write how far the ports are apart, such as "+1000"'
        raise ConfigError(path, f"{text} is a range, and the service listens on several", remedy)
    ((low, high),) = listens
    if high - low != ports[1] - ports[0]:
        problem = f"{text} are {ports[1] - ports[0] + 1} ports, and the service listens on {high - low + 1}"
        raise ConfigError(path, problem, f"write {ports[0]}-{ports[0] + high - low}, or one port")
    return ports[0] - low
