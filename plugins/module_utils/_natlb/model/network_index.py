# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks of one family, by their lengths and their bits."""

from __future__ import annotations

from collections.abc import Iterator

from .ranges import number_range


class NetworkIndex:
    """Finds the networks around an address or a network. That takes a step for each length, not for each network."""

    def __init__(self) -> None:
        #: By how many bits of an address are left open, and by the others.
        self._lengths: dict[int, dict[int, str]] = {}

    def add(self, network: str) -> None:
        """As `ADDRESS/LENGTH`."""
        open_bits, number = _bits(network)
        self._lengths.setdefault(open_bits, {})[number >> open_bits] = network

    def around(self, inner: str) -> Iterator[str]:
        """Those that have every address of `inner`, an address or a network, and more."""
        own_bits, number = _bits(inner) if self._lengths else (0, 0)
        within = "/" in inner
        for open_bits, known in self._lengths.items():
            if number >> open_bits in known and (open_bits > own_bits or not within):
                yield known[number >> open_bits]


def _bits(network: str) -> tuple[int, int]:
    """How many bits of an address a network leaves open, and its first address."""
    low, high = number_range(network)
    return (low ^ high).bit_length(), low
