# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How iptables picks one of several targets: by a counter, by a random number, or by a hash of the client.

Each function returns chains, name to rules without `-A CHAIN`; the first chain has the given name, and every packet
that enters it takes one of the targets.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..model.hash_table import MAX_SIZE, deal
from ..model.kernel_hashes import jhash_word, scaled
from .dispatch import cut

#: Longest list of rules that a packet is led past one by one, where a list can be cut.
_FLAT = 16
#: Hash nodes of one level. `iptables-save` prints `--cluster-local-node K` as a mask with bit K set, and iptables 1.8.9
#: refuses masks over 32 when it reads them back; with four nodes no mask exceeds 15.
_NODES = 4
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
    size = len(slots) // _NODES
    nodes: list[Target] = []
    for node in range(_NODES):
        part = slots[node * size : (node + 1) * size]
        if len(set(part)) == 1:
            nodes.append(part[0])
            continue
        child = cut(f"{name}.n{node}")
        nodes.append(Target("", f"-g {child}"))
        chains.update(by_hash(child, part, _next_seed(seed), in_nodes))
    ranked = sorted(Counter(nodes).items(), key=lambda entry: (entry[1], nodes.index(entry[0])))
    for target, _unused in ranked[:-1]:
        mask = sum(1 << node for node in range(_NODES) if nodes[node] == target)
        chains[name].append(target.when(in_nodes(seed, mask)))
    chains[name].append(ranked[-1][0].when())
    return chains


def cluster_match(seed: int, mask: int) -> str:
    """The leading two bits of the kernel's own hash of the IPv4 source (net/netfilter/xt_cluster.c)."""
    return (
        f"-m cluster --cluster-local-nodemask {mask:#010x} --cluster-total-nodes {_NODES} "
        f"--cluster-hash-seed {seed:#010x}"
    )


def bpf_match(seed: int, mask: int) -> str:
    """The leading two bits of a hash of the IPv6 source, as a classic BPF program.

    xt_cluster hashes no more than the first 32 bits of an IPv6 address (it hands jhash2 NF_CT_TUPLE_L3SIZE / 4 = one
    word), which all clients of a provider share. So each of the four words is mixed in here: xor, multiply, shift.
    """
    program = [(_LOAD_NUMBER, seed), (_STORE, 0)]
    for offset in range(_IPV6_SOURCE, _IPV6_SOURCE + 16, 4):
        program += [(_LOAD_WORD, offset), (_LOAD_X, 0), (_XOR_X, 0), (_MULTIPLY, 0x85EBCA6B)]
        program += [(_TO_X, 0), (_SHIFT_RIGHT, 15), (_XOR_X, 0), (_STORE, 0)]
    program += [(_MULTIPLY, 0xC2B2AE35), (_SHIFT_RIGHT, 30), (_TO_X, 0)]
    program += [(_LOAD_NUMBER, 1), (_SHIFT_LEFT_X, 0), (_AND, mask), (_RETURN_A, 0)]
    steps = ",".join(f"{code} 0 0 {operand}" for code, operand in program)
    return f'-m bpf --bytecode "{len(program)},{steps}"'


# Operations of classic BPF (include/uapi/linux/bpf_common.h), and where an IPv6 header has its source address.
_LOAD_NUMBER, _LOAD_WORD, _LOAD_X, _STORE, _TO_X, _RETURN_A = 0x00, 0x20, 0x61, 0x02, 0x07, 0x16
_MULTIPLY, _SHIFT_RIGHT, _AND, _XOR_X, _SHIFT_LEFT_X = 0x24, 0x74, 0x54, 0xAC, 0x6C
_IPV6_SOURCE = 8


def hashed_slot(address: str, seed: int, count: int) -> int:
    """The slot of so many that a client's packet comes to by way of `by_hash`."""
    packed = ipaddress.ip_address(address).packed
    slot = 0
    while count > 1:
        count //= _NODES
        slot += count * (_cluster_node(packed, seed) if len(packed) == 4 else _bpf_node(packed, seed))
        seed = _next_seed(seed)
    return slot


def _cluster_node(packed: bytes, seed: int) -> int:
    """What `cluster_match` looks at. The kernel takes the address as a number of this machine."""
    return scaled(jhash_word(int.from_bytes(packed, sys.byteorder), seed), _NODES)


def _bpf_node(packed: bytes, seed: int) -> int:
    """What `bpf_match` looks at."""
    mixed = seed
    for word in struct.unpack("!IIII", packed):
        mixed = (mixed ^ word) * 0x85EBCA6B & 0xFFFFFFFF
        mixed ^= mixed >> 15
    return (mixed * 0xC2B2AE35 & 0xFFFFFFFF) >> 30


def _next_seed(seed: int) -> int:
    """Another seed for the level below: a linear congruence of full period (constants: Numerical Recipes)."""
    return (seed * 1664525 + 1013904223) % 2**32


def hash_slots(
    keys: Sequence[str], weights: Sequence[int], primary: Sequence[int], staying: Sequence[int]
) -> list[int]:
    """The slots of `by_hash`: which of the keys each belongs to. As model/hash_table.py deals them, but in few blocks,
    since one that is whole needs a single rule. All levels but the last lead to the same places in a larger table."""
    size = _SMALLEST
    while size * min(weights) < _SLOTS_OF_LIGHTEST * sum(weights) and size < MAX_SIZE:
        size *= _NODES
    return deal(keys, weights, primary, staying, size, _BLOCKS)
