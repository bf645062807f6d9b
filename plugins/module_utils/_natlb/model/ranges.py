# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of ports and of addresses, as numbers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from ..host import addresses

#: First and last of a range of numbers, both included.
Range = tuple[int, int]
ALL_PORTS: Range = (0, 65535)


def apart(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in ranges that do not overlap; those that only touch stay apart."""
    found: list[Range] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def collapsed(given: Sequence[str]) -> tuple[str, ...]:
    """Networks in their shortest equal form, so that no two of them overlap."""
    found = [ipaddress.ip_network(network) for network in given]
    v4 = ipaddress.collapse_addresses(n for n in found if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in found if isinstance(n, ipaddress.IPv6Network))
    return tuple(str(network) for network in [*v4, *v6])


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Ranges in order, with overlapping and adjoining ones made one."""
    found: list[Range] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def number_range(network: str) -> Range:
    """First and last address of a network, or of an address alone, as numbers."""
    if "/" not in network:
        # A network takes more than twice as long to make.
        _version, number = addresses.number(network)
        return number, number
    parsed = ipaddress.ip_network(network)
    return int(parsed.network_address), int(parsed.broadcast_address)


def cidr(block: Range, bits: int) -> str:
    """An aligned block of addresses as `ADDRESS/LENGTH`."""
    length = bits - (block[0] ^ block[1]).bit_length()
    address = ipaddress.IPv4Address(block[0]) if bits == 32 else ipaddress.IPv6Address(block[0])
    return f"{address}/{length}"
