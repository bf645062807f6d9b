# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Marks of packets: bits that routing, shaping and filters of this host tell the packets of a service by. Pure.

Each packet that goes from a client to a backend has them once its destination is translated. The other way packets
have none: what they are an answer to says where they go.
"""

from __future__ import annotations

from typing import NamedTuple

#: All bits of a mark.
ALL = 0xFFFFFFFF


class Mark(NamedTuple):
    """`value` within the bits of `mask`; a packet keeps all other bits that it has."""

    value: int
    mask: int

    def __str__(self) -> str:
        return f"{self.value:#x}/{self.mask:#x}"

    def over(self, other: Mark | None) -> Mark:
        """Both of them. Of bits that they share this one's count."""
        if other is None:
            return self
        return Mark(other.value & ~self.mask | self.value, other.mask | self.mask)


def mark_of(text: str) -> Mark:
    """What `str` has made of one."""
    value, _slash, mask = text.partition("/")
    return Mark(int(value, 16), int(mask, 16))
