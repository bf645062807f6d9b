# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which source ports the networks behind the balancer may not keep, and which they get instead."""

from __future__ import annotations

import random
from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.model.shadowing import MOST, Shadowed, shadowed


def found(*listens: str, protocol: Any = "tcp", egress: dict[str, str] | None = None) -> list[Shadowed]:
    backends = [{"address": "10.0.0.3", "port": 7}]
    services = [
        {"name": f"s{number}", "listen": listen, "protocol": protocol, "backends": backends}
        for number, listen in enumerate(listens)
    ]
    config = parse_config(services, [{"source": "10.0.0.0/24", **(egress or {})}])
    return list(shadowed(config.services, "ip", config.egress[0]))


def test_ports_of_services_in_each_protocol() -> None:
    listens = ("192.0.2.10:80", "192.0.2.11:81", "*:443")
    ports = ((80, 81), (443, 443))
    assert found(*listens, protocol=["tcp", "udp"]) == [
        Shadowed("tcp", ports, (1024, 65535)),
        Shadowed("udp", ports, (1024, 65535)),
    ]
    assert found(*listens, protocol="udp", egress={"snat": "192.0.2.11"}) == [
        Shadowed("udp", ((81, 81), (443, 443)), (1024, 65535))
    ]


@pytest.mark.parametrize("egress", [{}, {"snat": "192.0.2.12"}])
def test_a_network_that_may_have_the_address(egress: dict[str, str]) -> None:
    assert found("192.0.2.0/24:80", egress=egress) == [Shadowed("tcp", ((80, 80),), (1024, 65535))]


@pytest.mark.parametrize(
    ("listens", "egress"),
    [
        ((), {}),
        (("192.0.2.0/29:80",), {"snat": "192.0.2.12"}),
        (("192.0.2.10:80",), {"protocol": "udp"}),
        (("192.0.2.10:80",), {"snat": "none"}),
        (("192.0.2.10:80",), {"snat": "192.0.2.12"}),
        (("192.0.2.10:1024-65535",), {}),
    ],
)
def test_nothing_is_to_be_done(listens: tuple[str, ...], egress: dict[str, str]) -> None:
    assert found(*listens, egress=egress) == []


@pytest.mark.parametrize("seed", range(20))
def test_any_ports(seed: int) -> None:
    """Every port of a service is among those that are replaced, and none among those that replace them."""
    chance = random.Random(seed)
    ports = sorted(chance.sample(range(1, 65536), chance.choice([1, 7, 8, 50])))
    (one,) = found(*(f"192.0.2.10:{port}" for port in ports))
    assert len(one.ports) <= MOST
    assert all(any(low <= port <= high for low, high in one.ports) for port in ports)
    low, high = one.instead
    assert 1024 <= low <= high
    assert not any(low <= port <= high for port in ports)
    if len(ports) <= MOST:
        assert sum(high - low + 1 for low, high in one.ports) == len(ports)
