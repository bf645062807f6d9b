# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a rule of iptables looks at a hash of a packet: matches for its leading two bits, and the same computed here.

The kernel's own hash (xt_cluster) is of the whole IPv4 source. Of anything else a classic BPF program makes one.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Callable
from functools import partial

from ..model.hash_keys import BITS, HashKey, Opening
from ..model.kernel_hashes import jhash_word, scaled
from ..packets import Family, family_of
from .choice import NODES, next_seed

# Operations of classic BPF (include/uapi/linux/bpf_common.h).
_LOAD_NUMBER, _LOAD_WORD, _LOAD_X, _STORE, _TO_X, _RETURN_A = 0x00, 0x20, 0x61, 0x02, 0x07, 0x16
_MULTIPLY, _SHIFT_RIGHT, _AND, _XOR_X, _SHIFT_LEFT_X = 0x24, 0x74, 0x54, 0xAC, 0x6C
#: A half word at a place, or as far behind X; and X as the length of the IPv4 header at a place, with its options.
_LOAD_HALF, _LOAD_HALF_AT_X, _HEADER_TO_X = 0x28, 0x48, 0xB1

#: Where a header has its addresses.
_PLACES = {"ip": {"saddr": 12, "daddr": 16}, "ip6": {"saddr": 8, "daddr": 24}}
_IPV6_HEADER = 40

_Program = list[tuple[int, int]]


def match_of(key: HashKey, family: Family) -> Callable[[int, int], str]:
    """The match for packets whose two bits are a number that has its bit in a mask: of a seed and that mask."""
    if family == "ip" and key == HashKey("saddr", BITS["ip"]):
        return cluster_match
    return partial(bpf_match, key, family)


def cluster_match(seed: int, mask: int) -> str:
    """The leading two bits of the kernel's own hash of the IPv4 source (net/netfilter/xt_cluster.c)."""
    return (
        f"-m cluster --cluster-local-nodemask {mask:#010x} --cluster-total-nodes {NODES} "
        f"--cluster-hash-seed {seed:#010x}"
    )


def bpf_match(key: HashKey, family: Family, seed: int, mask: int) -> str:
    """The leading two bits of a hash of what the key names, as a classic BPF program.

    xt_cluster hashes no more than the first 32 bits of an IPv6 address (it hands jhash2 NF_CT_TUPLE_L3SIZE / 4 = one
    word), which all clients of a provider share. So each word is mixed in here: xor, multiply, shift.
    """
    program: _Program = [(_LOAD_NUMBER, seed), (_STORE, 0)]
    place = _PLACES[family][key.field]
    for number, left_out in enumerate(_left_out(key.bits)):
        program += [(_LOAD_WORD, place + 4 * number), *([(_SHIFT_RIGHT, left_out)] if left_out else []), *_mixing_in()]
    if key.with_port:
        program += [*_source_port(family), *_mixing_in()]
    program += [(_MULTIPLY, 0xC2B2AE35), (_SHIFT_RIGHT, 30), (_TO_X, 0)]
    program += [(_LOAD_NUMBER, 1), (_SHIFT_LEFT_X, 0), (_AND, mask), (_RETURN_A, 0)]
    steps = ",".join(f"{code} 0 0 {operand}" for code, operand in program)
    return f'-m bpf --bytecode "{len(program)},{steps}"'


def _mixing_in() -> _Program:
    """Mixes the word at hand into what there is."""
    first: _Program = [(_LOAD_X, 0), (_XOR_X, 0), (_MULTIPLY, 0x85EBCA6B)]
    return [*first, (_TO_X, 0), (_SHIFT_RIGHT, 15), (_XOR_X, 0), (_STORE, 0)]


def _source_port(family: Family) -> _Program:
    """Behind the header. Behind IPv6 there may be extension headers, which hardly a first packet has. Then what is read
    here is of one of these; the client gets a backend all the same, if not by its port."""
    if family == "ip6":
        return [(_LOAD_HALF, _IPV6_HEADER)]
    return [(_HEADER_TO_X, 0), (_LOAD_HALF_AT_X, 0)]


def _left_out(bits: int) -> list[int]:
    """How many bits of each word of an address do not count, for the words of which some do.

    They are shifted out: the hash of numbers that differ in low bits is better, since a product carries upwards.
    """
    return [32 - min(32, bits - start) for start in range(0, bits, 32)]


def hashed_slot(key: HashKey, opening: Opening, seed: int, count: int) -> int:
    """The slot of so many that a packet comes to by way of `by_hash`. With a port in the key, it has to be known."""
    address = key.address_in(opening)
    packed = ipaddress.ip_address(address).packed
    by_cluster = match_of(key, family_of(address)) is cluster_match
    whole = struct.unpack(f"!{len(packed) // 4}I", packed)
    words = [word >> left_out for word, left_out in zip(whole, _left_out(key.bits))]
    if key.with_port and opening.client_port is not None:
        words.append(opening.client_port)
    slot = 0
    while count > 1:
        count //= NODES
        slot += count * (_cluster_node(packed, seed) if by_cluster else _bpf_node(words, seed))
        seed = next_seed(seed)
    return slot


def _cluster_node(packed: bytes, seed: int) -> int:
    """What `cluster_match` looks at. The kernel takes the address as a number of this machine."""
    return scaled(jhash_word(int.from_bytes(packed, sys.byteorder), seed), NODES)


def _bpf_node(words: list[int], seed: int) -> int:
    """What `bpf_match` looks at."""
    mixed = seed
    for word in words:
        mixed = (mixed ^ word) * 0x85EBCA6B & 0xFFFFFFFF
        mixed ^= mixed >> 15
    return (mixed * 0xC2B2AE35 & 0xFFFFFFFF) >> 30
