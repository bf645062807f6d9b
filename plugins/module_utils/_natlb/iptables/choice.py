# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How iptables picks one of several targets: by a counter, by a random number, or by a hash.

Each function returns chains, name to rules without `-A CHAIN`; the first chain has the given name, and every packet
that enters it takes one of the targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..model.hash_table import MAX_SIZE, deal
from .dispatch import cut

#: Longest list of rules that a packet is led past one by one, where a list can be cut.
_FLAT = 16
#: Hash nodes of one level. `iptables-save` prints `--cluster-local-node K` as a mask with bit K set, and iptables 1.8.9
#: refuses masks over 32 when it reads them back; with four nodes no mask exceeds 15.
NODES = 4
#: Blocks that are dealt to backends; the slots are a power of four. More blocks move fewer clients, but are more rules:
#: one of ten backends that goes moves 6.0 points of a hundred without need with 64 blocks (67 rules for three backends,
#: 118 for ten), 4.6 with 128 (150, 228), 3.4 with 256 (243, 345).
_BLOCKS = 64
_SMALLEST = 1024
#: So the share of the lightest backend is within 1 or 2 %, as far as the largest table goes.
_SLOTS_OF_LIGHTEST = 64

Chains = dict[str, list[str]]


class Target(NamedTuple):
    """A rule in two halves, so that a condition fits in between: `-p tcp` and `-j DNAT --to-destination …`."""

    match: str
    action: str

    def when(self, condition: str = "") -> str:
        return " ".join(part for part in (self.match, condition, self.action) if part)


def by_turn(name: str, targets: Sequence[Target]) -> Chains:
    """Target i for packet i, over and over, in exactly this order.

    A rule's counter sees only what the rules before it let pass, so rule i of n takes every (n - i)-th. A long list of
    d * m becomes d lists of m: list r gets every d-th packet, which are the turns r, r + d, r + 2d and so on.
    """
    if len(set(targets)) == 1:
        return {name: [targets[0].when()]}
    count = len(targets)
    width = next((d for d in range(_FLAT, 1, -1) if count % d == 0), 1) if count > _FLAT else 1
    if width == 1:
        return {name: [target.when(_every(count - index)) for index, target in enumerate(targets)]}
    chains: Chains = {name: []}
    for turn in range(width):
        child = cut(f"{name}.t{turn}")
        chains[name].append(Target("", f"-g {child}").when(_every(width - turn)))
        chains.update(by_turn(child, targets[turn::width]))
    return chains


def _every(count: int) -> str:
    return f"-m statistic --mode nth --every {count} --packet 0" if count > 1 else ""


def by_chance(name: str, targets: Sequence[tuple[Target, int]]) -> Chains:
    """A target for each packet, with a chance as large as its weight.

    A rule is tried only if those before it were not taken, so its chance is its weight relative to the remaining
    weights. iptables keeps 31 bits of it; fewer than ten digits would be less precise.
    """
    if len(targets) > _FLAT:
        return _by_chance_in_parts(name, targets)
    left = sum(weight for _unused, weight in targets)
    rules = []
    for target, weight in targets:
        chance = f"-m statistic --mode random --probability {weight / left:.11f}" if weight < left else ""
        rules.append(target.when(chance))
        left -= weight
    return {name: rules}


def _by_chance_in_parts(name: str, targets: Sequence[tuple[Target, int]]) -> Chains:
    size = -(-len(targets) // _FLAT)
    below: Chains = {}
    parts: list[tuple[Target, int]] = []
    for start in range(0, len(targets), size):
        part = targets[start : start + size]
        child = cut(f"{name}.p{start}")
        parts.append((Target("", f"-g {child}"), sum(weight for _unused, weight in part)))
        below.update(by_chance(child, part))
    return {**by_chance(name, parts), **below}


def by_hash(name: str, slots: Sequence[Target], seed: int, in_nodes: Callable[[int, int], str]) -> Chains:
    """The target in the slot that a seeded hash of the client's address points to.

    `slots` are a power of four, as `hash_slots` makes them. Each level of the tree takes two bits from a hash of its
    own seed: `in_nodes(seed, mask)` is the match for clients whose two bits are a number that has its bit in the mask.
    The commonest target of a chain comes last and takes the rest, so no packet is without one.
    """
    chains: Chains = {name: []}
    if len(set(slots)) == 1:
        chains[name].append(slots[0].when())
        return chains
    size = len(slots) // NODES
    nodes: list[Target] = []
    for node in range(NODES):
        part = slots[node * size : (node + 1) * size]
        if len(set(part)) == 1:
            nodes.append(part[0])
            continue
        child = cut(f"{name}.n{node}")
        nodes.append(Target("", f"-g {child}"))
        chains.update(by_hash(child, part, next_seed(seed), in_nodes))
    ranked = sorted(Counter(nodes).items(), key=lambda entry: (entry[1], nodes.index(entry[0])))
    for target, _unused in ranked[:-1]:
        mask = sum(1 << node for node in range(NODES) if nodes[node] == target)
        chains[name].append(target.when(in_nodes(seed, mask)))
    chains[name].append(ranked[-1][0].when())
    return chains


def next_seed(seed: int) -> int:
    """Another seed for the level below: a linear congruence of full period (constants: Numerical Recipes)."""
    return (seed * 1664525 + 1013904223) % 2**32


def hash_slots(
    keys: Sequence[str], weights: Sequence[int], primary: Sequence[int], staying: Sequence[int]
) -> list[int]:
    """The slots of `by_hash`: which of the keys each belongs to. As model/hash_table.py deals them, but in few blocks,
    since one that is whole needs a single rule. All levels but the last lead to the same places in a larger table."""
    size = _SMALLEST
    while size * min(weights) < _SLOTS_OF_LIGHTEST * sum(weights) and size < MAX_SIZE:
        size *= NODES
    return deal(keys, weights, primary, staying, size, _BLOCKS)
