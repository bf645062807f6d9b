# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A list of networks as chains of iptables: few comparisons for each packet, and few chains in a row.

The kernel takes sixteen jumps in a row from iptables-nft. A prefix tree over nested networks is as deep as an address
is long: the complement of one address is 32 networks, each half as large as the last. So here blocks of a prefix tree
are cut off from below, wherever eight networks have come together; then eight such blocks, and so on. Each step up the
number of what is left is divided by eight, whatever the networks are.

A block that is cut off may lie in one that is cut off later. So narrower blocks are asked about first, and a block that
is asked about has all that lies in it and in no narrower one.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import NamedTuple

from ..model.ranges import cidr, number_range
from .dispatch import address_title, chain_name

#: Networks, or blocks of them, that make a block of their own.
_TOGETHER = 8


class _Piece(NamedTuple):
    """A network or a block: the bits that tell addresses in it, and its rule (without `-A CHAIN`)."""

    length: int
    rule: str


#: What is not in a block yet, by height: networks, blocks of networks, blocks of those.
_Pieces = list[list[_Piece]]


class _Builder:
    def __init__(self, name: tuple[str, ...], bits: int, rules: Mapping[str, str], otherwise: str, side: str) -> None:
        self.name, self.bits, self.otherwise, self.side = name, bits, otherwise, side
        found = sorted((number_range(network), rule) for network, rule in rules.items())
        self.ranges = [block for block, _rule in found]
        self.lows = [low for low, _high in self.ranges]
        self.rules = [rule for _block, rule in found]
        self.chains: dict[str, list[str]] = {}

    def root(self) -> dict[str, list[str]]:
        self._put(chain_name(*self.name), self._pieces(0, len(self.rules)))
        return self.chains

    def _pieces(self, first: int, last: int) -> _Pieces:
        """The networks from `first` to before `last`, with what is cut off of them as blocks."""
        if last - first == 1:
            low, high = self.ranges[first]
            return [[_Piece(self.bits - (low ^ high).bit_length(), self.rules[first])]]
        low, high = self.ranges[first][0], self.ranges[last - 1][1]
        shift = (low ^ high).bit_length()
        start = low >> shift << shift
        middle = bisect.bisect_left(self.lows, start + (1 << (shift - 1)), first, last)
        pieces = _joined(self._pieces(first, middle), self._pieces(middle, last))
        full = [height for height, found in enumerate(pieces) if len(found) >= _TOGETHER]
        if full:
            height = full[-1]
            block = (start, start + (1 << shift) - 1)
            chain = chain_name(*self.name, address_title(block, self.bits))
            self._put(chain, pieces[: height + 1])
            rest = pieces[height + 1 :]
            above = [
                *(rest[0] if rest else []),
                _Piece(self.bits - shift, f"{self.side} {cidr(block, self.bits)} -g {chain}"),
            ]
            pieces = [*([] for _unused in range(height + 1)), above, *rest[1:]]
        return pieces

    def _put(self, chain: str, pieces: _Pieces) -> None:
        # No network lies in one of these blocks, so those need no order.
        blocks = sorted((piece for found in pieces[1:] for piece in found), key=lambda piece: -piece.length)
        self.chains[chain] = [*(piece.rule for piece in [*pieces[0], *blocks]), self.otherwise]


def _joined(one: _Pieces, other: _Pieces) -> _Pieces:
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    return [[*found, *(short[height] if height < len(short) else [])] for height, found in enumerate(long)]


def build(
    name: tuple[str, ...], bits: int, rules: Mapping[str, str], otherwise: str, side: str = "-s"
) -> dict[str, list[str]]:
    """The chains that bring a packet to the rule of the network that its source is in, and any other one `otherwise`:
    names to rules without `-A CHAIN`. The first is called `name`; the others are reached from it by `-g`. With `-d` as
    `side` it is the destination.

    Each rule matches its network by itself. These do not overlap; `bits` is the length of an address.
    """
    return _Builder(name, bits, rules, otherwise, side).root()
