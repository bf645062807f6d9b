# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trees of chains, so that iptables finds one of ten thousand rules in a few comparisons.

A tree is a prefix tree over ports and, if many items share a port, over addresses. Each level cuts an aligned block
into at most eight. The blocks do not depend on the declaration, and chains are named after their block. So one service
more or less changes its own leaf, and leaves nearly all other chains alone.

Such a tree may be deeper than the kernel accepts (addresses at powers of two); `balanced.py` handles that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, NamedTuple

from ..model.ranges import Range, cidr
from ..ruleset.names import HASH_CHARACTERS, digest

PREFIX = "NATLB."
#: XT_EXTENSION_MAXNAMELEN in the kernel's include/uapi/linux/netfilter/x_tables.h is 29, with the final NUL.
MAX_NAME = 28
FAN_OUT = 8
_BITS_PER_LEVEL = 3
#: Where a match costs more than a jump, four blocks on a level are the quickest: 2.25 matches on average for two bits,
#: with the last block unmatched, beside 4.5 for three.
_BITS_PER_LEVEL_DEAR = 2

#: iptables-nft matches a /24 by comparing three bytes, for which the kernel has no fast way (nft_payload_select_ops):
#: 36 ns instead of 4 for a /23 or a /25, which are four bytes and a mask.
_SLOW_SHIFT = 8


def chain_name(*parts: str) -> str:
    """`NATLB.` and the parts with dots between them, no longer than a chain's name may be.

    Names of services have neither `.` nor `/`. So an empty first part keeps our own chains apart from theirs.
    """
    return cut(PREFIX + ".".join(parts))


def cut(name: str) -> str:
    """The name, or where it is too long its beginning and a hash, which no other name has."""
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - HASH_CHARACTERS - 1]}/{digest(name)}"


@dataclass(frozen=True)
class Item:
    """What a tree leads to: rules (without `-A CHAIN`) for packets of these ports and these addresses, as numbers."""

    ports: Range
    addresses: Range
    rules: tuple[str, ...]


@dataclass(frozen=True)
class Tree:
    """How to write a tree: the parts of its root's name, the bits of an address, and the two matches.

    `dear`: a match costs more than a jump, and few packets come here that meet nothing. Then levels are narrower, and
    the last block of each is entered by whoever is left; the leaves match exactly all the same.
    """

    name: tuple[str, ...]
    bits: int
    port_match: Callable[[str], str]
    address_match: Callable[[str], str]
    dear: bool = False

    @property
    def bits_per_level(self) -> int:
        return _BITS_PER_LEVEL_DEAR if self.dear else _BITS_PER_LEVEL

    @property
    def root(self) -> str:
        return chain_name(*self.name)


class Dimension(NamedTuple):
    """Ports or addresses: which range of an item, how a block is matched and named, and how many bits there are."""

    of: Callable[[Item], Range]
    match: Callable[[Range], str]
    title: Callable[[Range], str]
    bits: int
    #: A size of blocks, as a power of two, that is slow to match.
    slow_shift: int | None


class _Child(NamedTuple):
    block: Range
    items: list[Item]


class _Node(NamedTuple):
    """Items that share a chain, and the block that it covers in each dimension, None where that is everything."""

    blocks: tuple[Range | None, ...]
    items: list[Item]
    level: int


def dimensions_of(tree: Tree) -> tuple[Dimension, Dimension]:
    return (
        Dimension(lambda item: item.ports, lambda block: tree.port_match(ports_text(block)), _port_title, 16, None),
        Dimension(
            lambda item: item.addresses,
            lambda block: tree.address_match(cidr(block, tree.bits)),
            lambda block: address_title(block, tree.bits),
            tree.bits,
            _SLOW_SHIFT if tree.bits == 32 and not tree.dear else None,
        ),
    )


def build(tree: Tree, items: Sequence[Item], levels: int) -> dict[str, list[str]] | None:
    """The chains of a tree, its root among them: name to rules without `-A CHAIN`. None where more than `levels` of
    them would follow each other.

    Items of one leaf keep their order. A packet that meets no item comes back to whoever called the root.
    """
    dimensions = dimensions_of(tree)
    chains: dict[str, list[str]] = {}
    pending = [_Node((None, None), list(items), 1)]
    while pending:
        node = pending.pop()
        if node.level > levels:
            return None
        rules: list[str] = []
        chains[_node_name(tree, dimensions, node.blocks)] = rules
        split = _split(node, dimensions, tree.bits_per_level)
        if split is None:
            rules.extend(rules_of(node.items))
            continue
        which, children = split
        rules.extend(rules_of([child.items[0] for child in children if len(child.items) == 1]))
        inner = [child for child in children if len(child.items) > 1]
        for child in inner:
            blocks = tuple(child.block if index == which else old for index, old in enumerate(node.blocks))
            match = "" if tree.dear and child is inner[-1] else f"{dimensions[which].match(child.block)} "
            rules.append(f"{match}-g {_node_name(tree, dimensions, blocks)}")
            pending.append(_Node(blocks, child.items, node.level + 1))
    return chains


def _node_name(tree: Tree, dimensions: Sequence[Dimension], blocks: Sequence[Range | None]) -> str:
    titles = [dimension.title(block) for dimension, block in zip(dimensions, blocks) if block is not None]
    return chain_name(*tree.name, *titles)


def rules_of(items: Sequence[Item]) -> list[str]:
    """Each item's rules once, although a range may stand in several blocks of one node."""
    return [rule for item in dict.fromkeys(items) for rule in item.rules]


def _split(node: _Node, dimensions: Sequence[Dimension], bits_per_level: int) -> tuple[int, list[_Child]] | None:
    """The dimension that takes the items furthest apart, and its blocks; None where the items make a leaf.

    Ranges stand in every block that they overlap; a split that more than doubles the items, or leaves one block with
    all of them, is none.
    """
    count = len(node.items)
    if count <= FAN_OUT:
        return None
    best: tuple[int, list[_Child]] | None = None
    best_size = count
    for which, dimension in enumerate(dimensions):
        children = _children(node.items, dimension, node.blocks[which], bits_per_level)
        size = max(len(child.items) for child in children)
        if size < best_size and sum(len(child.items) for child in children) <= 2 * count:
            best, best_size = (which, children), size
        if best_size <= count // 2:
            break
    return best


def _children(items: list[Item], dimension: Dimension, within: Range | None, bits_per_level: int) -> list[_Child]:
    """The parts of the smallest aligned block around all items within a block, without the empty ones."""
    ranges = [dimension.of(item) for item in items]
    if within is not None:
        ranges = [(max(low, within[0]), min(high, within[1])) for low, high in ranges]
    first = min(low for low, high in ranges)
    last = max(high for low, high in ranges)
    shift = max(0, (first ^ last).bit_length() - _level_bits(len(items), bits_per_level))
    if shift == dimension.slow_shift:
        shift -= 1
    blocks: dict[int, list[Item]] = {}
    for item, (low, high) in zip(items, ranges):
        for block in range(low >> shift, (high >> shift) + 1):
            blocks.setdefault(block, []).append(item)
    return [_Child((block << shift, ((block + 1) << shift) - 1), blocks[block]) for block in sorted(blocks)]


def _level_bits(count: int, most: int) -> int:
    """How many bits one level tells apart: fewer where leaves come of that, since each chain costs time to load."""
    return min(most, (max(0, count - 1) // FAN_OUT).bit_length())


def ports_text(ports: Range) -> str:
    """`80` or `80:89`, as iptables writes ports."""
    return str(ports[0]) if ports[0] == ports[1] else f"{ports[0]}:{ports[1]}"


def _port_title(block: Range) -> str:
    return ports_text(block).replace(":", "-")


def address_title(block: Range, bits: int) -> str:
    """The leading bits in hexadecimal, and how many they are."""
    length = bits - (block[0] ^ block[1]).bit_length()
    digits = f"{block[0]:0{bits // 4}x}"[: -(-length // 4)]
    return f"{digits}-{length}"
