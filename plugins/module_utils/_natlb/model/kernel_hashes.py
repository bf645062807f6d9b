# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hashes by which the kernel picks a slot for a client, computed here. Pure.

Each is compared with the choice of the kernel itself in the tests.
"""

from __future__ import annotations

import ipaddress
import struct

_MASK = 0xFFFFFFFF
#: include/linux/jhash.h (Bob Jenkins' lookup3).
_JHASH_INITVAL = 0xDEADBEEF


def source_key(address: str, port: int | None = None) -> bytes:
    """The bytes that nftables hashes: the address, and with a port that as well, padded to a register of 32 bits."""
    packed = ipaddress.ip_address(address).packed
    return packed if port is None else packed + struct.pack("!H", port) + bytes(2)


def scaled(value: int, count: int) -> int:
    """`reciprocal_scale` of include/linux/kernel.h: which of so many equal ranges a hash lies in."""
    return value * count >> 32


def jhash(data: bytes, seed: int) -> int:
    """`jhash` of include/linux/jhash.h."""
    length = len(data)
    a = b = c = (_JHASH_INITVAL + length + seed) & _MASK
    while len(data) > 12:
        first, second, third = struct.unpack_from("<III", data)
        a, b, c = _mix((a + first) & _MASK, (b + second) & _MASK, (c + third) & _MASK)
        data = data[12:]
    if data:
        first, second, third = struct.unpack("<III", data + bytes(12 - len(data)))
        a, b, c = _final((a + first) & _MASK, (b + second) & _MASK, (c + third) & _MASK)
    return c


def jhash_word(word: int, seed: int) -> int:
    """`jhash_1word`, of a number."""
    initial = (seed + _JHASH_INITVAL + 4) & _MASK
    return _final((word + initial) & _MASK, initial, initial)[2]


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (32 - bits)) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for first, second, third in ((4, 6, 8), (16, 19, 4)):
        a = (a - c) & _MASK ^ _rotated(c, first)
        c = (c + b) & _MASK
        b = (b - a) & _MASK ^ _rotated(a, second)
        a = (a + c) & _MASK
        c = (c - b) & _MASK ^ _rotated(b, third)
        b = (b + a) & _MASK
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int, int]:
    c = ((c ^ b) - _rotated(b, 14)) & _MASK
    a = ((a ^ c) - _rotated(c, 11)) & _MASK
    b = ((b ^ a) - _rotated(a, 25)) & _MASK
    c = ((c ^ b) - _rotated(b, 16)) & _MASK
    a = ((a ^ c) - _rotated(c, 4)) & _MASK
    b = ((b ^ a) - _rotated(a, 14)) & _MASK
    c = ((c ^ b) - _rotated(b, 24)) & _MASK
    return a, b, c
