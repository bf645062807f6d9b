# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No two elements of a map or set of intervals overlap: the kernel would refuse them ("File exists")."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
import strategies
from _natlb.model.services import parse_config
from _natlb.nftables import render as nftables
from _natlb.ruleset.sections import Ruleset
from hypothesis import given, settings

Span = tuple[Any, Any]


def span(field: str) -> Span:
    """First and last of what a field of a key has."""
    if "/" in field:
        network = ipaddress.ip_network(field)
        return int(network[0]), int(network[-1])
    low, _dash, high = field.partition("-")
    try:
        return int(low), int(high or low)
    except ValueError:
        pass
    try:
        return (int(ipaddress.ip_address(field)),) * 2
    except ValueError:
        return field, field


def overlapping(ruleset: Ruleset) -> Iterator[str]:
    for key, section in ruleset.items():
        if key.kind in ("map", "set") and "flags interval" in section.header:
            spans = [(line, [*map(span, line.partition(" : ")[0].split(" . "))]) for line in section.body]
            for (line, one), (other, two) in combinations(spans, 2):
                if all(a[0] <= b[1] and b[0] <= a[1] for a, b in zip(one, two, strict=True)):
                    yield f"{key.name}: {line} and {other}"


@settings(max_examples=25)
@given(declared=strategies.services())
def test_of_any_services(declared: list[dict[str, Any]]) -> None:
    assert [*overlapping(nftables.render(parse_config(declared)))] == []


@pytest.mark.parametrize("seed", range(60))
def test_of_services_that_have_ports_and_backends_in_common(seed: int) -> None:
    config = parse_config(strategies.in_common(random.Random(seed)))
    assert [*overlapping(nftables.render(config))] == []
