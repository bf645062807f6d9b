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
from ..packets import Family, family_of
from . import values
from .network_lists import KnownLists, expanded, read_word
from .ranges import most_specific, networks_of, number_range
from .reading import Reading

#: In one service. Each is an element of a map or a rule, and has to be listed with all others.
MAX_PINS = 4096
_KEYS = ("client", "backend")


class Pin(NamedTuple):
    """A network, or the name of a list of `networks`, and the name of the backend that their clients go to."""

    client: str
    backend: str
    networks: tuple[str, ...]

    def of(self, family: Family) -> tuple[str, ...]:
        """The networks of a family. A list may have both."""
        return tuple(network for network in self.networks if family_of(network) == family)

    def dump(self) -> dict[str, str]:
        """As it is declared."""
        return {"client": self.client, "backend": self.backend}


def read_pins(value: Any, path: str, lists: KnownLists) -> tuple[Pin, ...]:
    """As a user types them; `lists` are those of networks that they may name. How they fit the backends is for
    `fitting.py` to say. Raises `ConfigErrors`."""
    items = values.sequence(value, path)
    if len(items) > MAX_PINS:
        raise ConfigError(path, f"{len(items)} pins", f"at most {MAX_PINS} in one service")
    reading = Reading()
    found = reading.each(
        lambda item, at: _pin(item, at, lists), ((f"{path}[{n}]", item) for n, item in enumerate(items))
    )
    reading.done()
    return tuple(found)


def _pin(value: Any, path: str, lists: KnownLists) -> Pin:
    reading = Reading()
    given = reading.mapping(value, path, _KEYS, _KEYS)
    reading.done()
    client = read_word(given["client"], f"{path}.client", lists)
    return Pin(client, values.backend_name(given["backend"], f"{path}.backend"), expanded((client,), lists))


def decisive(pins: Iterable[Pin], client: str) -> Pin | None:
    """The pin that decides about a client; None where no network has it."""
    address = ipaddress.ip_address(client)
    having = [(net.prefixlen, pin) for pin in pins for net in map(ipaddress.ip_network, pin.networks) if address in net]
    return max(having)[1] if having else None


@lru_cache(maxsize=64)
def pinned_networks(pins: Sequence[Pin], family: Family) -> tuple[tuple[str, str], ...]:
    """Networks of a family that do not overlap, each with the name of its backend. Services are copied often."""
    here = [(number_range(network), pin.backend) for pin in pins for network in pin.of(family)]
    found = most_specific(here, family)
    return tuple((network, backend) for block, backend in found for network in networks_of(block, family))
