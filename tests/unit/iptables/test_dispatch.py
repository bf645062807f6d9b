# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import re
from dataclasses import replace

import pytest
from _natlb.iptables.balanced import fitted
from _natlb.iptables.dispatch import MAX_NAME, Item, Tree, chain_name, cut
from _natlb.model.ranges import cidr, number_range
from hypothesis import given, settings
from hypothesis import strategies as st

TREE = Tree(("", "d", "tcp"), 32, "--dport {}".format, "-d {}".format)
DEAR = replace(TREE, dear=True)
#: More than any of these trees needs.
LEVELS = 40
TREES = pytest.mark.parametrize("tree", [TREE, DEAR], ids=["tree", "dear"])


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("pre",), "NATLB.pre"),
        (("web", "tcp"), "NATLB.web.tcp"),
        (("", "d", "tcp"), "NATLB..d.tcp"),
        (("", "d", "tcp", "32768-40959"), "NATLB..d.tcp.32768-40959"),
        (("w" * 18, "tcp"), "NATLB." + "w" * 18 + ".tcp"),
        (("w" * 19, "tcp"), "NATLB.wwwwwwwwwww/q4gvwvaopt"),
    ],
)
def test_chain_name(parts: tuple[str, ...], name: str) -> None:
    assert len(name) <= MAX_NAME
    if "/" in name:
        assert re.fullmatch(r"NATLB\.w{11}/[a-z2-7]{10}", chain_name(*parts))
    else:
        assert chain_name(*parts) == name


def test_names_that_are_cut_differ() -> None:
    names = {chain_name(f"{'long-' * 10}{number}", protocol) for number in range(5000) for protocol in ("tcp", "udp")}
    assert len(names) == 10000
    assert max(map(len, names)) == MAX_NAME


@given(st.text("abcdef.", min_size=1, max_size=60))
def test_cut_is_stable(name: str) -> None:
    assert len(cut(name)) <= MAX_NAME
    assert cut(cut(name)) == cut(name)


@pytest.mark.parametrize(
    "network", ["0.0.0.0/0", "10.0.0.0/9", "192.0.2.10/32", "::/0", "2001:db8::/33", "2001:db8::1/128"]
)
def test_cidr_is_the_inverse_of_number_range(network: str) -> None:
    assert cidr(number_range(network), 128 if ":" in network else 32) == network


def build(tree: Tree, items: list[Item], levels: int = LEVELS) -> dict[str, list[str]]:
    return fitted(tree, items, levels)


def found(chains: dict[str, list[str]], address: int, port: int) -> list[str]:
    """The items that a packet meets, as the kernel walks: -g never comes back to the chain it left."""
    met: list[str] = []
    chain: str | None = TREE.root
    while chain is not None:
        rules, chain = chains[chain], None
        for rule in rules:
            match, goto, target = rule.rpartition("-g ")
            if not goto:
                met.append(target)
            elif not match or _matches(match, address, port):
                chain = target
                break
    return met


def _matches(match: str, address: int, port: int) -> bool:
    what, value = match.split()
    if what == "-d":
        first, last = number_range(value)
        return first <= address <= last
    low, _unused, high = value.partition(":")
    return int(low) <= port <= int(high or low)


def depth(chains: dict[str, list[str]], name: str = TREE.root) -> int:
    """How many chains follow each other."""
    targets = [rule.rpartition(" ")[2] for rule in chains[name] if "-g " in rule]
    return 1 + max((depth(chains, target) for target in targets), default=0)


PORTS = st.one_of(
    st.integers(1, 65535).map(lambda port: (port, port)),
    st.sampled_from([(80, 80), (443, 443)]),
    st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda pair: (min(pair), max(pair))),
)
ADDRESSES = st.one_of(
    st.integers(0, 2**32 - 1), st.integers(0xC0000200, 0xC00002FF), st.sampled_from([0xC000020A, 0xC000020B])
)


@TREES
@pytest.mark.parametrize("levels", [LEVELS, 3, 2, 1])
@settings(max_examples=100, deadline=None)
@given(wanted=st.lists(st.tuples(PORTS, ADDRESSES), max_size=120), data=st.data())
def test_a_tree_finds_what_a_list_finds(
    tree: Tree, levels: int, wanted: list[tuple[tuple[int, int], int]], data: st.DataObject
) -> None:
    items = [Item(ports, (address, address), (f"item{i}",)) for i, (ports, address) in enumerate(wanted)]
    chains = build(tree, items, levels)
    assert all(len(name) <= MAX_NAME for name in chains)
    assert depth(chains) <= levels
    packets = [(address, port) for (ports, address) in wanted for port in ports]
    packets.append((data.draw(ADDRESSES), data.draw(st.integers(0, 65535))))
    for address, port in packets:
        met = set(found(chains, address, port))
        for item in items:
            if item.addresses[0] == address and item.ports[0] <= port <= item.ports[1]:
                assert item.rules[0] in met


@pytest.mark.parametrize("count", [20, 200, 2000, 10000])
def test_no_block_is_one_that_iptables_nft_is_slow_with(count: int) -> None:
    items = [Item((80, 80), (address, address), ("",)) for address in range(0xC6120000, 0xC6120000 + count * 7, 7)]
    rules = [rule for lines in build(TREE, items).values() for rule in lines if rule]
    assert not [rule for rule in rules if "/24 " in rule]
    assert [rule for rule in rules if "/25 " in rule or "/23 " in rule] or count == 20


def test_a_leaf_is_a_list() -> None:
    items = [Item((80, 80), (i, i), (f"item{i}",)) for i in range(8)]
    assert build(TREE, items) == {"NATLB..d.tcp": [f"item{i}" for i in range(8)]}


def matches_of(tree: Tree, items: list[Item]) -> int:
    """The most matches that a packet to one of the items is asked for."""
    chains = build(tree, items)
    return max(_asked(chains, item.addresses[0], item.ports[0]) for item in items)


def _asked(chains: dict[str, list[str]], address: int, port: int) -> int:
    steps, chain = 0, TREE.root
    while True:
        following = None
        for rule in chains[chain]:
            match, goto, target = rule.rpartition("-g ")
            steps += bool(match or not goto)
            if goto and (not match or _matches(match, address, port)):
                following = target
                break
        if following is None:
            return steps
        chain = following


@pytest.mark.parametrize(
    "items",
    [
        [Item((1000 + 6 * i,) * 2, (1, 1), (f"i{i}",)) for i in range(10000)],
        [Item((80, 80), (0x0A000000 + 250 * i,) * 2, (f"i{i}",)) for i in range(10000)],
        [Item((1000 + i % 100,) * 2, (0x0A000000 + i // 100,) * 2, (f"i{i}",)) for i in range(10000)],
        [Item((1024, 65535), (0x0A000000 + i,) * 2, (f"i{i}",)) for i in range(10000)],
        [Item((1 << (i % 16),) * 2, (1 << (i // 16),) * 2, (f"i{i}",)) for i in range(32 * 16)],
    ],
    ids=["ports", "addresses", "both", "ranges on many addresses", "powers of two"],
)
def test_ten_thousand_are_found_by_few_matches(items: list[Item]) -> None:
    assert matches_of(TREE, items) <= 64
    assert matches_of(DEAR, items) <= 0.8 * matches_of(TREE, items)


ANYWHERE = (0, 0)
#: Items that take a prefix tree to its deepest.
DEEP = {
    "addresses": [Item((80, 80), (1 << i,) * 2, (f"i{i}",)) for i in range(128)],
    "blocks": [Item((80, 80), (1 << i, (2 << i) - 1), (f"i{i}",)) for i in range(128)],
    "ports": [Item((1 << i,) * 2, ANYWHERE, (f"i{i}",)) for i in range(16)],
    "both": [Item((1 << j,) * 2, (1 << i,) * 2, (f"i{i}.{j}",)) for i in range(128) for j in range(16)],
    "many in one corner": [
        Item((80, 80), (address,) * 2, (f"i{address}",))
        for address in [*(1 << i for i in range(20, 128)), *range(1, 8000, 2)]
    ],
    "each in the corner of the one before": [
        Item((80, 80), (sum(1 << (127 - k) for k in range(i)) + offset,) * 2, (f"i{i}.{offset}",))
        for i in range(120)
        for offset in range(9)
    ],
    "ranges beside single ports": [
        *(Item((1 << i, 65535), (1 << i,) * 2, (f"i{i}",)) for i in range(16)),
        *(Item((1 << j,) * 2, (1 << (16 + i),) * 2, (f"j{i}.{j}",)) for i in range(100) for j in range(10)),
    ],
}


@pytest.mark.parametrize("levels", [12, 7, 4, 3, 2])
@pytest.mark.parametrize("case", DEEP)
def test_no_tree_is_deeper_than_it_may_be(case: str, levels: int) -> None:
    """And each item is found in a few steps, however few levels there are."""
    items = DEEP[case]
    tree = replace(TREE, bits=128)
    chains = build(tree, items, levels)
    assert depth(chains) <= levels
    assert max(map(len, chains.values())) <= 4 * len(items) ** (1 / levels) + 32
    assert sum(map(len, chains.values())) <= 4 * len(items)
    for item in items[:: max(1, len(items) // 500)]:
        assert item.rules[0] in found(chains, item.addresses[0], item.ports[0])
        assert item.rules[0] in found(chains, item.addresses[1], item.ports[1])


def test_a_tree_that_fits_is_what_it_was() -> None:
    items = [Item((1000 + i % 100,) * 2, (0x0A000000 + i // 100,) * 2, (f"i{i}",)) for i in range(3000)]
    assert build(TREE, items, depth(build(TREE, items))) == build(TREE, items)


@TREES
@pytest.mark.parametrize("port", [20001, 32001], ids=["within", "behind the last"])
def test_one_more_changes_few_chains(tree: Tree, port: int) -> None:
    items = [Item((1000 + 6 * i,) * 2, (1, 1), (f"i{i}",)) for i in range(5000)]
    before, after = build(tree, items), build(tree, [*items, Item((port, port), (1, 1), ("new",))])
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    assert len(changed) <= 3


def test_the_last_block_of_a_dear_tree_needs_no_match() -> None:
    items = [Item((80, 80), (i, i), (f"item{i}",)) for i in range(32)]
    assert build(TREE, items)[TREE.root][-1].startswith("-d 0.0.0.24/29 -g ")
    assert build(DEAR, items)[TREE.root][-1].startswith("-g ")
    assert all(rule.startswith("-d ") for rule in build(DEAR, items)[TREE.root][:-1])


def test_what_cannot_be_told_apart_stays_a_list() -> None:
    items = [Item((80, 80), (1, 1), (f"-i eth{i}",)) for i in range(50)]
    assert build(TREE, items) == {"NATLB..d.tcp": [f"-i eth{i}" for i in range(50)]}
