# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client networks that belong to a backend, whatever the method: the one with the longest prefix decides. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from ..errors import ConfigError
from ..packets import Family
from . import values
from .ranges import most_specific, networks_of, number_range
from .reading import Reading

#: In one service. Each is an element of a map or a rule, and has to be listed with all others.
MAX_PINS = 4096
_KEYS = ("client", "backend")


class Pin(NamedTuple):
    """A network, and the name of the backend that its clients go to."""

    client: str
    backend: str


def read_pins(value: Any, path: str) -> tuple[Pin, ...]:
    """As a user types them. Raises `ConfigErrors`."""
    items = values.sequence(value, path)
    if len(items) > MAX_PINS:
        raise ConfigError(path, f"{len(items)} pins", f"at most {MAX_PINS} in one service")
    reading = Reading()
    places: dict[str, str] = {}
    found = []
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        for pin in reading.each(_pin, [(at, item)]):
            if pin.client in places:
                reading.add(f"{at}.client", f"{pin.client} stands at {places[pin.client]} already", "pin it once")
            places.setdefault(pin.client, at)
            found.append(pin)
    reading.done()
    return tuple(found)


def _pin(value: Any, path: str) -> Pin:
    reading = Reading()
    given = reading.mapping(value, path, _KEYS, _KEYS)
    reading.done()
    network = str(values.network(given["client"], f"{path}.client"))
    return Pin(network, values.backend_name(given["backend"], f"{path}.backend"))


def decisive(pins: Iterable[Pin], client: str) -> Pin | None:
    """The pin that decides about a client; None where no network has it."""
    address = ipaddress.ip_address(client)
    having = [(net.prefixlen, pin) for pin in pins for net in [ipaddress.ip_network(pin.client)] if address in net]
    return max(having)[1] if having else None


@lru_cache(maxsize=64)
def pinned_networks(pins: Sequence[Pin], family: Family) -> tuple[tuple[str, str], ...]:
    """Networks of a family that do not overlap, each with the name of its backend. Services are copied often."""
    here = [pin for pin in pins if (":" in pin.client) == (family == "ip6")]
    found = most_specific([(number_range(pin.client), pin.backend) for pin in here], family)
    return tuple((network, backend) for block, backend in found for network in networks_of(block, family))
