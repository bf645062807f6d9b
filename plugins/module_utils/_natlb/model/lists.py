# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists that services and egress rules have in common: networks, and the addresses of source NAT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from . import values
from .reading import Reading
from .source_nat import Snat

#: What `snat` may be instead of addresses, in either case.
_WORDS: tuple[Snat, ...] = ("masquerade", "none")


def distinct(items: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def snat_choice(value: Any, path: str) -> tuple[Snat, tuple[str, ...]]:
    items = values.one_or_more(value, path)
    word = items[0][1] if len(items) == 1 else None
    for each in _WORDS:
        if isinstance(word, str) and word.strip().lower() == each:
            return each, ()
    reading = Reading()
    addresses = distinct([str(address) for address in reading.each(_snat_address, items)])
    reading.done()
    if not addresses:
        raise ConfigError(path, "is empty", "write masquerade, none, or one or several addresses")
    return "address", tuple(addresses)


def _snat_address(value: Any, path: str) -> values.Address:
    if isinstance(value, str) and not {".", ":"} & {*value}:
        remedy = "write masquerade, none, or one or several addresses"
        raise ConfigError(path, f"{values.shown(value)} is not an IP address", remedy)
    return values.host_address(value, path)


def networks(value: Any, path: str, without: str) -> tuple[str, ...]:
    """Networks as they were given, each once. An empty list, as a template may give it, is refused; the remedy says
    what to do `without` any."""
    reading = Reading()
    found = reading.each(values.network, values.one_or_more(value, path))
    reading.done()
    if not found:
        raise ConfigError(path, "is empty", without)
    return tuple(distinct([str(network) for network in found]))
