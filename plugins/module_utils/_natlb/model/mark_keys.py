# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The marks of services and backends, as a user types them, and whether they fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from ..errors import ConfigError
from . import values
from .entities import Backend, Service
from .marks import ALL, Mark
from .outbound import Egress
from .ranges import Range
from .reading import Reading

_REMEDY = "write a value and a mask, such as 0x10/0xff"


def read_mark(value: Any, path: str) -> Mark:
    """As `ip rule` takes it: `0x10/0xff`, or `0x10` for all bits. Raises `ConfigError`."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    try:
        number, slash, mask = text.partition("/")
        found = Mark(int(number, 0), int(mask, 0) if slash else ALL)
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(path, f"{values.shown(value)} is not a mark", _REMEDY) from None
    if found == (0, 0):
        raise ConfigError(
            path, f"{values.shown(value)} sets no bits", "leave it out, or name the bits: 0x0/0xff clears eight"
        )
    if not slash and not found.value:
        problem = f"{values.shown(value)} would clear all 32 bits, also those of others"
        raise ConfigError(path, problem, "leave it out for no mark, or name the bits: 0x0/0xff clears eight")
    if not 0 < found.mask <= ALL or found.value < 0:
        raise ConfigError(path, f"{values.shown(value)} is not a mark of 32 bits", _REMEDY)
    if found.value & ~found.mask:
        raise ConfigError(path, f"{found.value:#x} has bits that are not of the mask {found.mask:#x}", _REMEDY)
    return found


def check_backends(backends: Sequence[Backend], ports: Sequence[Range], path: str, reading: Reading) -> None:
    """Whether address and port tell backends apart that have other marks; `ports` are those of the service."""
    found: dict[str, list[int]] = {}
    for index, backend in enumerate(backends):
        found.setdefault(backend.address, []).append(index)
    for places in found.values():
        for first, second in combinations(places, 2) if len(places) > 1 else ():
            one, two = backends[first], backends[second]
            if one.mark != two.mark and _meet(one, two, ports):
                problem = f"{path}[{first}] has ports of {two.address} in common with it, and another mark"
                reading.add(f"{path}[{second}].mark", problem, "give both the same, or make two services of them")


def _meet(one: Backend, two: Backend, ports: Sequence[Range]) -> bool:
    mine = [one.ports_at(*each) for each in ports]
    others = [two.ports_at(*each) for each in ports]
    return any(low <= last and first <= high for low, high in mine for first, last in others)


def marked(services: Mapping[int, Service]) -> Iterator[tuple[str, Mark]]:
    """The marks that are declared, each with its place."""
    for index, service in services.items():
        if not service.is_marked:
            continue
        if service.mark is not None:
            yield f"services[{index}].mark", service.mark
        for number, backend in enumerate(service.backends):
            if backend.mark is not None:
                yield f"services[{index}].backends[{number}].mark", backend.mark


def collisions(services: Mapping[int, Service], egress: Mapping[int, Egress], mask: int) -> Iterator[ConfigError]:
    """An error for each mark with bits by which the uplinks of egress are told: a packet has them of its connection."""
    first = next((index for index, item in egress.items() if item.uplinks), None)
    for path, mark in marked(services) if first is not None else ():
        if mark.mask & mask:
            problem = f"{mark} has bits of mark_mask ({mask:#x}), by which egress[{first}].uplinks are routed"
            yield ConfigError(path, problem, "take other bits, or another mark_mask")
