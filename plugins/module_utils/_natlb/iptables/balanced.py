# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees that stay within the kernel's limit of chains in a row, whatever the items are.

iptables-nft accepts sixteen jumps in a row (NFT_JUMP_STACK_SIZE in include/net/netfilter/nf_tables.h); a jump by -g
counts too. A prefix tree (`dispatch.py`) over addresses at powers of two separates only a few of them at each of forty
levels. This tree separates equal shares instead: each chain cuts the smallest blocks that hold a share of its items. A
block may lie within a block that is cut later. So narrower blocks are tested first, and each one has the items that lie
in it and in no narrower one.

An additional or removed item changes more chains than in a prefix tree. So this is only for trees that are too deep.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..model.ranges import Range
from .dispatch import FAN_OUT, PREFIX, Dimension, Item, Tree, build, chain_name, dimensions_of, rules_of
from .service import Tables

#: Chains in a row below a built-in one.
_DEEPEST = 15


def add_tree(tables: Tables, table: str, tree: Tree, items: Sequence[Item], above: int) -> None:
    """Add a tree's chains as `dispatch.build` gives them, or those of one that is less deep.

    `above` is how many chains in a row lead to its root; those that its items lead to are in the table already.
    """
    below = _depth(tables, table, [rule for item in items for rule in item.rules])
    for name, rules in fitted(tree, items, max(1, _DEEPEST - above - below)).items():
        tables.chains[table, name] = rules


def fitted(tree: Tree, items: Sequence[Item], levels: int) -> dict[str, list[str]]:
    """The chains of a tree, of which no more than `levels` follow each other."""
    found = build(tree, items, levels)
    return _Balanced(tree, items, levels).chains if found is None else found


def _depth(tables: Tables, table: str, rules: Iterable[str]) -> int:
    """How many chains in a row these rules lead to."""
    known: dict[str, int] = {}

    def below(name: str) -> int:
        if name not in known:
            known[name] = 1 + max(map(below, _targets(tables.chains.get((table, name), ()))), default=0)
        return known[name]

    return max(map(below, _targets(rules)), default=0)


def _targets(rules: Iterable[str]) -> set[str]:
    """The chains of ours that rules lead to. A log's prefix, which may look like one, is never the last word of such a
    rule."""
    ends = {rule.rpartition(" ")[2] for rule in rules if PREFIX in rule}
    return {name for name in ends if name.startswith(PREFIX)}


class _Piece(NamedTuple):
    """A block that is cut off, and the numbers of the items in it."""

    block: Range
    members: list[int]


class _Cut:
    """One dimension of a chain's items, cut into blocks: `pieces` in the order to ask about them, and what is left."""

    def __init__(self, dimension: Dimension, items: Sequence[Item], share: int) -> None:
        self._ranges = [dimension.of(item) for item in items]
        self._share = share
        self.pieces: list[_Piece] = []
        everything = (0, (1 << dimension.bits) - 1)
        spanning = [number for number, ports in enumerate(self._ranges) if _holds(ports, everything)]
        local = sorted({*range(len(items))} - {*spanning})
        self.left = sorted([*spanning, *self._gather(everything, local, spanning)])

    def _gather(self, block: Range, local: list[int], spanning: list[int]) -> list[int]:
        """Those of `local` that are not wholly in a piece.

        `local` touch the block and do not fill it; what is in `spanning` does.
        """
        if len(local) < self._share:
            return local
        low = min(max(self._ranges[number][0], block[0]) for number in local)
        high = max(min(self._ranges[number][1], block[1]) for number in local)
        bits = (low ^ high).bit_length()
        start = low >> bits << bits
        block = start, start + (1 << bits) - 1
        filling = [number for number in local if _holds(self._ranges[number], block)]
        spanning = [*spanning, *filling]
        kept = {*filling}
        if bits:
            within = [number for number in local if number not in kept]
            for half in ((start, block[1] - (1 << (bits - 1))), (start + (1 << (bits - 1)), block[1])):
                touching = [number for number in within if _overlap(self._ranges[number], half)]
                full = {number for number in touching if _holds(self._ranges[number], half)}
                rest = self._gather(half, [n for n in touching if n not in full], [*spanning, *sorted(full)])
                kept.update(rest, full)
        left = sorted(kept)
        if len(left) < self._share:
            return left
        self.pieces.append(_Piece(block, sorted({*left, *spanning})))
        return [number for number in left if not _holds(block, self._ranges[number])]

    @property
    def largest(self) -> int:
        return max([len(self.left), *(len(piece.members) for piece in self.pieces)])

    @property
    def total(self) -> int:
        return len(self.left) + sum(len(piece.members) for piece in self.pieces)


class _Balanced:
    """The chains of a tree of at most `levels`."""

    def __init__(self, tree: Tree, items: Sequence[Item], levels: int) -> None:
        self._tree = tree
        self._dimensions = dimensions_of(tree)
        self.chains: dict[str, list[str]] = {}
        self._add(tree.name, list(items), levels)

    def _add(self, path: tuple[str, ...], items: list[Item], levels: int) -> str:
        """A chain for these items, and its name: the tree's, and the blocks that lead there."""
        name = chain_name(*path)
        rules: list[str] = []
        self.chains[name] = rules
        found = self._split(items, levels)
        if found is None:
            rules.extend(rules_of(items))
            return name
        dimension, cut = found
        for piece in cut.pieces:
            members = [items[number] for number in piece.members]
            child = self._add((*path, dimension.title(piece.block)), members, levels - 1)
            rules.append(f"{dimension.match(piece.block)} -g {child}")
        left = [items[number] for number in cut.left]
        if len(left) <= FAN_OUT:
            rules.extend(rules_of(left))
        else:
            rules.append(f"-g {self._add((*path, 'rest'), left, levels - 1)}")
        return name

    def _split(self, items: Sequence[Item], levels: int) -> tuple[Dimension, _Cut] | None:
        """The dimension that takes the items furthest apart; None where they make a leaf."""
        if len(items) <= FAN_OUT or levels < 2:
            return None
        # A block may gather nearly two shares.
        parts = max(FAN_OUT, round(2 * len(items) ** (1 / levels)))
        share = max(FAN_OUT // 2, -(-len(items) // parts))
        best: tuple[Dimension, _Cut] | None = None
        for dimension in self._dimensions:
            cut = _Cut(dimension, items, share)
            if cut.largest > len(items) // 2 or cut.total > 2 * len(items):
                continue
            if best is None or cut.largest < best[1].largest:
                best = dimension, cut
        return best


def _holds(outer: Range, inner: Range) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _overlap(one: Range, other: Range) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]
