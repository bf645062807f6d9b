# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from _natlb.iptables import render
from _natlb.iptables.origin import merged
from _natlb.model.ranges import Range
from _natlb.model.services import parse_config
from hypothesis import given
from hypothesis import strategies as st

HTTP, HTTPS = (80, 80), (443, 443)


def one(address: int) -> Range:
    return address, address


def places(cells: list[tuple[Range, Range]]) -> list[tuple[int, int]]:
    """Every (address, port), as often as it is there."""
    return [
        (address, port)
        for addresses, ports in cells
        for address in range(addresses[0], addresses[1] + 1)
        for port in range(ports[0], ports[1] + 1)
    ]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40).map(one),
            st.tuples(st.integers(1, 6), st.integers(0, 2)).map(lambda pair: (pair[0], pair[0] + pair[1])),
        ),
        max_size=40,
    )
)
def test_merging_covers_the_same_once(cells: list[tuple[Range, Range]]) -> None:
    found = merged(cells)
    covered = places(found)
    assert sorted(covered) == sorted(set(places(cells)))
    for (low, high), _ports in found:
        size = high - low + 1
        assert size & (size - 1) == 0, "a block is a power of two"
        assert low % size == 0, "and aligned"


def test_neighbours_share_a_block() -> None:
    assert merged([(one(address), HTTP) for address in range(8, 16)]) == [((8, 15), HTTP)]
    assert merged([(one(address), HTTP) for address in range(7, 16)]) == [(one(7), HTTP), ((8, 15), HTTP)]
    assert merged([(one(8), (80, 81)), (one(8), (82, 90)), (one(8), HTTPS)]) == [(one(8), (80, 90)), (one(8), HTTPS)]
    assert merged([(one(address), ports) for address in (8, 9) for ports in (HTTP, HTTPS)]) == [
        ((8, 9), HTTP),
        ((8, 9), HTTPS),
    ]


@pytest.mark.parametrize(
    ("family", "network", "backend", "matches"),
    [
        ("ip", "192.0.2", "10.0.0.3", ["192.0.2.8/29", "192.0.2.6/31", "192.0.2.5", "192.0.2.16"]),
        ("ip6", "2001:db8::", "2001:db8:1::3", ["2001:db8::8/125", "2001:db8::6/127", "2001:db8::5", "2001:db8::10"]),
    ],
)
def test_only_what_is_done_the_same_to_shares_a_rule(
    family: str, network: str, backend: str, matches: list[str]
) -> None:
    def service(number: int) -> dict[str, object]:
        listen = f"{network}.{number}:80" if family == "ip" else f"[{network}{number:x}]:80"
        snat = "none" if number == 17 else "masquerade"
        return {"name": f"s{number}", "listen": listen, "backends": [{"address": backend}], "snat": snat}

    services = [service(number) for number in range(5, 18)]
    ruleset = render.render(parse_config(services, None, None))
    rules = ruleset[family, "nat", "chain", "NATLB..s.tcp"].body
    shared = [rule.split()[5] for rule in rules if rule.endswith("-j MASQUERADE")]
    assert shared == matches
    [alone] = [rule for rule in rules if not rule.endswith("-j MASQUERADE")]
    assert alone.endswith("--ctorigdstport 80 -j NATLB.s17.snat")
