# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hashes of packets: what the matches tell is what is computed, and it spreads."""

from __future__ import annotations

import random
import struct
from collections import Counter
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from _natlb.iptables.choice import next_seed
from _natlb.iptables.packet_hash import bpf_match, cluster_match, hashed_slot
from _natlb.model.hash_keys import BITS, HashKey, Opening


def test_masks_are_small_enough_for_iptables_to_read_back() -> None:
    """1.8.9 refuses a --cluster-local-nodemask over 32."""
    assert cluster_match(0xDEADBEEF, 9) == (
        "-m cluster --cluster-local-nodemask 0x00000009 --cluster-total-nodes 4 --cluster-hash-seed 0xdeadbeef"
    )


def run_bpf(text: str, packet: bytes) -> int:
    """A classic BPF program, as far as `bpf_match` uses the language."""
    accumulator = index = 0
    memory = [0] * 16
    for step in text.split(",")[1:]:
        code, _unused, _unused, operand = map(int, step.split())
        if code == 0x00:
            accumulator = operand
        elif code == 0x20:
            accumulator = int.from_bytes(packet[operand : operand + 4], "big")
        elif code in (0x28, 0x48):
            place = operand + (index if code == 0x48 else 0)
            accumulator = int.from_bytes(packet[place : place + 2], "big")
        elif code == 0xB1:
            index = 4 * (packet[operand] & 15)
        elif code == 0x61:
            index = memory[operand]
        elif code == 0x02:
            memory[operand] = accumulator
        elif code == 0x07:
            index = accumulator
        elif code == 0x16:
            return accumulator
        else:
            accumulator = _calculated(code, accumulator, index, operand)
    raise AssertionError("it never returned")


def _calculated(code: int, accumulator: int, index: int, operand: int) -> int:
    results = {
        0x24: accumulator * operand,
        0x74: accumulator >> operand,
        0x54: accumulator & operand,
        0xAC: accumulator ^ index,
        0x6C: accumulator << (index & 31),
    }
    return results[code] % 2**32


def matched(key: HashKey, family: str, seed: int, packet: bytes) -> int:
    """The two bits that the matches for each of the four numbers tell."""
    programs = [bpf_match(key, family, seed, 1 << node).split('"')[1] for node in range(4)]
    (found,) = [node for node in range(4) if run_bpf(programs[node], packet)]
    return found


def _bits(seed: int, address: IPv6Address) -> int:
    return matched(HashKey("saddr", 128), "ip6", seed, bytes(8) + address.packed + bytes(16))


def packet_of(opening: Opening, options: int) -> bytes:
    """The first packet up to the client's port; `options` are words of an IPv4 header."""
    source, target = ip_address(opening.client).packed, ip_address(opening.target).packed
    port = struct.pack("!H", opening.client_port or 0)
    if len(source) == 16:
        return bytes(8) + source + target + port
    return bytes([0x45 + options]) + bytes(11) + source + target + b"\x01" * 4 * options + port


KEYS = {
    "ip": [HashKey("saddr", 24), HashKey("saddr", 9), HashKey("saddr", 32, with_port=True), HashKey("daddr", 32)],
    "ip6": [
        *(HashKey("saddr", bits) for bits in (1, 32, 56, 64, 127, 128)),
        HashKey("saddr", 128, with_port=True),
        HashKey("daddr", 128),
    ],
}


@pytest.mark.parametrize(("family", "key"), [(family, key) for family, keys in KEYS.items() for key in keys], ids=str)
def test_programs_find_the_slot_that_is_computed(family: str, key: HashKey) -> None:
    rng = random.Random(7)
    address = IPv6Address if family == "ip6" else IPv4Address
    seen = set()
    for _unused in range(60):
        client, target = (str(address(rng.getrandbits(BITS[family]))) for _each in range(2))
        opening = Opening(client, rng.randrange(1, 65536), target)
        packet, seed, slot = packet_of(opening, rng.randrange(11)), 99, 0
        for _level in range(3):
            slot = 4 * slot + matched(key, family, seed, packet)
            seed = next_seed(seed)
        assert slot == hashed_slot(key, opening, 99, 64)
        seen.add(slot)
    # Of one bit there are two values, each with a slot of its own at best.
    assert len(seen) > (30 if key.bits > 1 else 0)


def test_what_is_left_out_does_not_matter() -> None:
    slots = {hashed_slot(HashKey("saddr", 24), Opening(f"198.51.100.{n}", None, ""), 5, 4096) for n in range(256)}
    assert len(slots) == 1


@pytest.mark.parametrize("bits", [8, 12, 16, 20, 24, 28])
def test_networks_side_by_side_spread(bits: int) -> None:
    count = min(2**bits, 1600)
    clients = (str(IPv4Address((10 << 24) + (i << (32 - bits)) & 0xFFFFFFFF)) for i in range(count))
    seen = Counter(hashed_slot(HashKey("saddr", bits), Opening(client, None, ""), 1, 16) for client in clients)
    share = count / 16
    assert sum((seen[i] - share) ** 2 / share for i in range(16)) < 37.7


def test_a_bpf_program_is_short_enough() -> None:
    """XT_BPF_MAX_NUM_INSTR is 64."""
    for family, keys in KEYS.items():
        for key in [*keys, HashKey("saddr", 97 if family == "ip6" else 31, with_port=True)]:
            program = bpf_match(key, family, 0xFFFFFFFF, 15).split('"')[1]
            assert int(program.split(",")[0]) == len(program.split(",")) - 1 <= 64


@pytest.mark.parametrize("step", [1, 2**16, 2**32, 2**64, 2**80], ids=hex)
def test_ipv6_clients_spread_whatever_part_of_the_address_tells_them(step: int) -> None:
    first = int(IPv6Address("2001:db8::1"))
    seen = Counter((_bits(1, a), _bits(1015568748, a)) for i in range(1600) for a in [IPv6Address(first + i * step)])
    # 16 cells of 100; a chi-square of 15 degrees of freedom is below 37.7 with p = 0.001.
    assert sum((seen[i, j] - 100) ** 2 / 100 for i in range(4) for j in range(4)) < 37.7


def test_seeds_matter() -> None:
    rng = random.Random(1)
    addresses = [IPv6Address(rng.getrandbits(128)) for _unused in range(200)]
    same = sum(_bits(1, address) == _bits(2, address) for address in addresses)
    assert 25 < same < 75
