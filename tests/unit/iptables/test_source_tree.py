# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of networks of any shape: each address is told, after few comparisons and few chains in a row."""

from __future__ import annotations

import bisect
import ipaddress
import random
from collections.abc import Sequence
from typing import Any

import pytest
from _natlb.iptables import render
from _natlb.iptables.source_tree import build
from _natlb.model.services import parse_config
from hypothesis import example, given, settings
from hypothesis import strategies as st

YES, NO = "-j RETURN", "-j ACCEPT"
#: Chains in a row: eight to the power of so many is more than 100,000.
DEEPEST = 6
#: Rules that a packet meets at most; a flat list would have all of them.
LONGEST = 60

Chains = dict[str, list[str]]


def chains_of(networks: Sequence[str]) -> Chains:
    bits = 128 if ":" in networks[0] else 32
    return build(("web", "guard"), bits, {network: f"-s {network} {YES}" for network in networks}, NO)


def depth(chains: Chains, name: str = "NATLB.web.guard") -> int:
    targets = [rule.split()[-1] for rule in chains[name] if " -g " in rule]
    return 1 + max((depth(chains, target) for target in targets), default=0)


def verdict(chains: Chains, address: Any) -> tuple[bool, int]:
    """Whether a source is let on, and how many rules it met."""
    name, met = "NATLB.web.guard", 0
    while True:
        for rule in chains[name]:
            met += 1
            words = rule.split()
            if words[0] == "-s" and address not in ipaddress.ip_network(words[1]):
                continue
            if words[-2] == "-g":
                name = words[-1]
                break
            return rule.endswith(YES), met


def complement(address: str) -> list[str]:
    parsed = ipaddress.ip_network(address)
    everything = ipaddress.ip_network("0.0.0.0/0" if parsed.version == 4 else "::/0")
    return [str(network) for network in everything.address_exclude(parsed)]  # type: ignore[arg-type]


def collapsed(networks: Sequence[Any]) -> list[str]:
    return [str(network) for network in ipaddress.collapse_addresses(networks)]


def powers(bits: int) -> list[str]:
    """Addresses that each lie alone in the other half of a block."""
    kind = ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network
    return collapsed([kind((1 << shift, bits)) for shift in range(bits)])


SHAPES = {
    "the complement of one address": complement("198.51.100.7/32"),
    "the complement of the last address": complement("255.255.255.255/32"),
    "the complement of an address of IPv6": complement("2001:db8::7/128"),
    "powers of two": powers(32),
    "powers of two of IPv6": powers(128),
    "side by side": [f"10.{i >> 8}.{i & 255}.0/25" for i in range(4096)],
    "complements in complements": sorted(
        {
            network
            for i in range(256)
            for network in [f"{i}.0.0.0/9", *(f"{i}.{128 + 64}.{j}.1" for j in range(0, 256, 3))]
        }
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str) -> None:
    check(SHAPES[shape])


@pytest.mark.parametrize(
    ("bits", "count"),
    [*((bits, count) for bits in (32, 128) for count in (1, 2, 7, 8, 9, 64, 65, 1000)), (32, 100_000)],
)
def test_from_one_to_a_hundred_thousand(bits: int, count: int) -> None:
    rng = random.Random(count)
    kind = ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network
    found: set[Any] = set()
    while len(found) < count:
        shift = rng.randrange(8) * 2
        found.add(kind((rng.randrange(1 << bits) >> shift << shift, bits - shift)))
    check(collapsed(sorted(found)), tried=200)


NETWORKS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 32)).map(
        lambda pair: ipaddress.IPv4Network((pair[0] >> (32 - pair[1]) << (32 - pair[1]), pair[1]))
    ),
    min_size=2,
    max_size=80,
)


@settings(max_examples=150, deadline=None)
@given(NETWORKS, st.randoms())
@example([ipaddress.IPv4Network("0.0.0.0/1"), ipaddress.IPv4Network("128.0.0.0/2")], random.Random(1))
def test_any_list(networks: list[Any], rng: random.Random) -> None:
    check(collapsed(networks), rng=rng)


def check(networks: Sequence[str], tried: int = 100, rng: random.Random | None = None) -> None:
    """Exact at the edges of the networks and elsewhere, bounded in depth, and of one rule for each network."""
    rng = rng or random.Random(5)
    chains = chains_of(networks)
    assert depth(chains) <= DEEPEST
    assert sum(rule.endswith(YES) for rules in chains.values() for rule in rules) == len(networks)
    assert all(rules[-1] == NO and len(rules) <= LONGEST for rules in chains.values())
    parsed = [ipaddress.ip_network(network) for network in networks]
    by_low = {int(network.network_address): network for network in parsed}
    lows = sorted(by_low)
    largest = (1 << parsed[0].max_prefixlen) - 1
    kind = type(parsed[0].network_address)
    numbers = {0, largest, *(rng.randrange(largest + 1) for _unused in range(tried))}
    for network in rng.sample(parsed, min(len(parsed), tried)):
        first, last = int(network.network_address), int(network.broadcast_address)
        numbers |= {first - 1, first, last, last + 1}
    for number in numbers:
        if 0 <= number <= largest:
            allowed, met = verdict(chains, kind(number))
            place = bisect.bisect_right(lows, number)
            assert allowed == any(kind(number) in by_low[low] for low in lows[:place][-1:]), kind(number)
            assert met <= DEEPEST * LONGEST


def test_the_guard_of_a_service_leads_to_its_limits() -> None:
    declared = {
        "name": "web",
        "listen": "192.0.2.10:80",
        "allow_from": complement("198.51.100.7/32"),
        "max_connections_per_client": 5,
        "backends": [{"address": "10.0.0.3"}],
    }
    ruleset = render.render(parse_config([declared]))
    rules = [rule for key, section in ruleset.items() if key[3].startswith("NATLB.web.guard") for rule in section.body]
    assert sum(rule.endswith("-g NATLB.web.limits") for rule in rules) == 32
