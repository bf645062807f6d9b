# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel says of a part of the rules is what it says of that part within all of them."""

from __future__ import annotations

import shapes
from kernel_lab.asking import both_ways, in_parts
from kernel_lab.balancer import Balancer, Mapping, service, webs

NETWORKS = ["10.0.0.0/24", "192.0.2.0/24", "2001:db8:2::/64"]


def asked(balancer: Balancer, first: list[Mapping], second: list[Mapping]) -> tuple[list[str], int, int]:
    name, _dash, variant = balancer.engine.partition("-")
    found: tuple[list[str], int, int] = balancer.host.call(both_ways, name, variant or None, first, second, NETWORKS)
    return found


def test_a_change_gets_the_form_that_the_whole_gets(balancer: Balancer) -> None:
    for first, second in (([], shapes.ALL), (shapes.ALL, shapes.CHANGED), (shapes.CHANGED, shapes.ALL)):
        differing, _little, _all = asked(balancer, first, second)
        assert not differing


def test_a_drain_asks_about_what_it_changes(balancer: Balancer) -> None:
    many = [service(f"s{i}", listen=f"192.0.2.10:{i}") for i in range(1000, 1400)]
    drained = [{**many[0], "backends": [{**webs("web1")[0], "state": "drained"}, *many[0]["backends"][1:]]}, *many[1:]]
    differing, little, whole = asked(balancer, many, drained)
    assert not differing
    assert 0 < little < whole / 5
    assert asked(balancer, many, many)[:2] == ([], 0)


def test_many_services_get_the_form_that_they_get_in_one_piece(balancer: Balancer) -> None:
    many = [*shapes.ALL, *[service(f"s{i}", listen=f"192.0.2.200:{i}") for i in range(1000, 2000)]]
    name, _dash, variant = balancer.engine.partition("-")
    differing, more = balancer.host.call(in_parts, name, variant or None, many, NETWORKS)
    assert not differing
    assert more > 0
