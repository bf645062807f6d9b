# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks that are pinned to backends, as the rules have them: apart from each other, and right for every client."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.model.pins import Pin, decisive, pinned_networks
from _natlb.model.services import parse_config
from hypothesis import given, settings
from hypothesis import strategies as st


def pins(text: str) -> tuple[Pin, ...]:
    pairs = (pair.split(" ") for pair in text.split(", "))
    return tuple(Pin(client, backend, (client,)) for client, backend in pairs)


@pytest.mark.parametrize(
    ("given_pins", "networks"),
    [
        ("10.0.0.0/8 a", "10.0.0.0/8 a"),
        ("10.0.0.0/9 a, 10.128.0.0/9 a", "10.0.0.0/8 a"),
        ("10.0.0.0/30 a, 10.0.0.2/32 b", "10.0.0.0/31 a, 10.0.0.2/32 b, 10.0.0.3/32 a"),
        ("10.0.0.2/32 b, 10.0.0.0/30 a, 10.0.0.2/31 a", "10.0.0.0/31 a, 10.0.0.2/32 b, 10.0.0.3/32 a"),
        ("0.0.0.0/0 a, ::/0 b", "0.0.0.0/0 a"),
    ],
)
def test_the_longest_prefix_decides(given_pins: str, networks: str) -> None:
    assert [*pinned_networks(pins(given_pins), "ip")] == [pin[:2] for pin in pins(networks)]


def networks(bits: int) -> st.SearchStrategy[Any]:
    """Most of them near each other, so that they lie in each other."""
    kind = ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network
    return st.tuples(st.integers(0, 255), st.integers(bits - 8, bits)).map(
        lambda pair: str(kind((pair[0] >> (bits - pair[1]) << (bits - pair[1]), pair[1])))
    )


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(("ip", "ip6")))
def test_any_pins(data: st.DataObject, family: str) -> None:
    bits = 128 if family == "ip6" else 32
    chosen = data.draw(st.dictionaries(networks(bits), st.sampled_from("abc"), max_size=12))
    given_pins = tuple(Pin(client, backend, (client,)) for client, backend in chosen.items())
    found = [(ipaddress.ip_network(network), name) for network, name in pinned_networks(given_pins, family)]
    kind = ipaddress.IPv6Address if bits == 128 else ipaddress.IPv4Address
    for number in range(257):
        client = kind(number)
        having = [name for network, name in found if client in network]
        pin = decisive(given_pins, str(client))
        assert having == ([pin.backend] if pin else [])


def test_a_name_that_is_typed_as_a_number() -> None:
    """It names the backend whose name is typed so."""
    backends = [{"address": "10.0.0.3", "name": 5}, {"address": "10.0.0.4", "name": "6"}]
    chosen = [{"client": "198.51.100.0/24", "backend": "5"}, {"client": "203.0.113.0/24", "backend": 6}]
    declared = {"name": "web", "listen": "192.0.2.10:80", "backends": backends, "pins": chosen}
    assert [pin.backend for pin in parse_config([declared]).services[0].pins] == ["5", "6"]


def test_an_error_names_a_few_of_many_backends() -> None:
    backends = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    chosen = [{"client": "198.51.100.0/24", "backend": "web9"}]
    with pytest.raises(ConfigErrors, match=r"choose from 10\.0\.0\.1, .*, …\)$") as caught:
        parse_config([{"name": "web", "listen": "192.0.2.10:80", "backends": backends, "pins": chosen}])
    assert len(str(caught.value)) < 250
