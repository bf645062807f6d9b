# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of ports and of addresses, as numbers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

from ..host import addresses
from ..packets import FAMILIES, Family

T = TypeVar("T")

#: First and last of a range of numbers, both included.
Range = tuple[int, int]
#: Pairs of numbers: the first of each is in the first range, and the second in the second.
Box = tuple[Range, Range]
ALL_PORTS: Range = (0, 65535)
#: The last address of a family.
TOP = {"ip": 2**32 - 1, "ip6": 2**128 - 1}


def apart(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in ranges that do not overlap; those that only touch stay apart."""
    found: list[Range] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return found


def boxes_apart(boxes: Iterable[Box]) -> list[Box]:
    """The same pairs of numbers in boxes that do not overlap: those that others overlap with are cut along their first
    sides, and each strip has what any of them has there."""
    found: list[Box] = []
    for beside in _chained(boxes, 1):
        for near in _chained(beside, 0):
            found += _strips(near) if len(near) > 1 else near
    return found


def _chained(boxes: Iterable[Box], side: int) -> list[list[Box]]:
    """Boxes by the ranges of `apart` that this side of theirs lies in."""
    found: list[list[Box]] = []
    last = -1
    for box in sorted(set(boxes), key=lambda box: (box[side], box)):
        low, high = box[side]
        if not found or low > last:
            found.append([])
        found[-1].append(box)
        last = max(last, high)
    return found


def _strips(boxes: Sequence[Box]) -> list[Box]:
    edges = sorted({edge for (low, high), _across in boxes for edge in (low, high + 1)})
    found: list[tuple[Range, tuple[Range, ...]]] = []
    for low, beyond in zip(edges, edges[1:]):
        across = merged(side for (first, last), side in boxes if first <= low <= last)
        goes_on = bool(found) and found[-1] == ((found[-1][0][0], low - 1), across)
        found.append(((found.pop()[0][0] if goes_on else low, beyond - 1), across))
    return [(along, side) for along, across in found for side in across]


@lru_cache(maxsize=64)
def collapsed(given: tuple[str, ...]) -> tuple[str, ...]:
    """Networks in their shortest equal form, so that no two of them overlap. Many services may have the same."""
    found: list[str] = []
    for family in FAMILIES:
        blocks = {number_range(net): net for net in given if (":" in net) == (family == "ip6")}
        for block in merged(blocks):
            # Most stay as they are, and are quick to name.
            found += [blocks[block]] if block in blocks else networks_of(block, family)
    return tuple(found)


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
        _version, number = addresses.number(network)
        return number, number
    address, _slash, length = network.partition("/")
    if length.isdigit() and length.isascii():
        version, low = addresses.number(address)
        more = (128 if version == 6 else 32) - int(length)
        if more >= 0 and not low & ((1 << more) - 1):
            return low, low + (1 << more) - 1
    # It tells what is wrong, or knows another form.
    return _network_range(network)


@lru_cache(maxsize=65536)
def _network_range(network: str) -> Range:
    parsed = ipaddress.ip_network(network)
    return int(parsed.network_address), int(parsed.broadcast_address)


def is_in(network: str, address: str) -> bool:
    """Whether a network, or an address alone, has an address of the same family."""
    low, high = number_range(network)
    return low <= addresses.number(address)[1] <= high


def without(ports: Range, taken: Iterable[Range]) -> tuple[Range, ...]:
    """What is left of a range of numbers."""
    found, low = [], ports[0]
    for first, last in merged(taken):
        if first > ports[1]:
            break
        if low < first:
            found.append((low, first - 1))
        low = max(low, last + 1)
    return (*found, (low, ports[1])) if low <= ports[1] else tuple(found)


def cidr(block: Range, bits: int) -> str:
    """An aligned block of addresses as `ADDRESS/LENGTH`."""
    length = bits - (block[0] ^ block[1]).bit_length()
    address = ipaddress.IPv4Address(block[0]) if bits == 32 else ipaddress.IPv6Address(block[0])
    return f"{address}/{length}"


def networks_of(block: Range, family: Family) -> list[str]:
    """Any range of addresses, as few networks as it takes."""
    kind = ipaddress.IPv6Address if family == "ip6" else ipaddress.IPv4Address
    return [str(network) for network in ipaddress.summarize_address_range(kind(block[0]), kind(block[1]))]


def most_specific(networks: Iterable[tuple[Range, T | None]], family: Family) -> list[tuple[Range, T]]:
    """What each address has by the longest prefix that it is in, as ranges in order. Two with the same are never next
    to each other, and where it is None, or there is none, there is no range."""
    found: list[tuple[Range, T]] = []
    around: list[tuple[int, T | None]] = [(TOP[family], None)]
    begin = 0

    def until(end: int) -> None:
        nonlocal begin
        has = around[-1][1]
        if has is not None and begin <= end:
            joins = bool(found) and found[-1][0][1] == begin - 1 and found[-1][1] == has
            found.append(((found.pop()[0][0] if joins else begin, end), has))
        begin = max(begin, end + 1)

    # A network comes after those around it.
    for (low, high), has in sorted(networks, key=lambda item: (item[0][0], -item[0][1])):
        while around[-1][0] < low:
            until(around[-1][0])
            around.pop()
        until(low - 1)
        around.append((high, has))
    while around:
        until(around[-1][0])
        around.pop()
    return found
