# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses that are declared, and the host that they are declared for."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.warnings.addresses import Addressing, elsewhere, warnings

HERE = Addressing(
    local={"192.0.2.2", "10.0.0.1", "2001:db8:1::2"},
    connected=["10.0.0.0/24", "192.0.2.0/24", "2001:db8:1::/64"],
    routes=[(ipaddress.ip_network(n), "eth0") for n in ("10.0.0.0/24", "192.0.2.0/24", "2001:db8:1::/64")],
)


def service(listen: str = "192.0.2.2:80", **keys: Any) -> dict[str, Any]:
    backend = "2001:db8:1::3" if listen.startswith("[") else "10.0.0.3"
    return {"name": "web", "listen": listen, "backends": [{"address": backend}], **keys}


def found(*services: Any, egress: Any = (), needs_routes: tuple[str, ...] = ()) -> list[str]:
    return warnings(parse_config(list(services), list(egress)), HERE, needs_routes)


@pytest.mark.parametrize(
    ("listen", "warned"),
    [
        ("192.0.2.2:80", False),
        ("192.0.2.10:80", True),
        ("198.51.100.1:80", False),
        ("[2001:db8:1::10]:80", True),
        ("*:80", False),
    ],
)
def test_listening_addresses_that_nobody_answers_for(listen: str, warned: bool) -> None:
    address = listen.rpartition(":")[0].strip("[]")
    assert bool(found(service(listen))) == warned
    assert all(f"service web: {address} is in the connected network" in warning for warning in found(service(listen)))


@pytest.mark.parametrize(
    ("snat", "warned"),
    [("192.0.2.2", False), ("192.0.2.99", True), ("198.51.100.1", False), (["10.0.0.1", "10.0.0.99"], True)],
)
def test_source_addresses_that_nobody_answers_for(snat: Any, warned: bool) -> None:
    of_service = found(service(snat=snat))
    assert [warning.partition(":")[0] for warning in of_service] == ["service web"] * warned
    if isinstance(snat, str):
        of_egress = found(egress=[{"source": "10.9.0.0/24", "snat": snat}])
        assert [warning.partition(" snat ")[0] for warning in of_egress] == ["egress of 10.9.0.0/24:"] * warned


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"snat": "10.0.0.3"}, "snat"),
        ({"snat": ["10.0.0.1", "10.0.0.3"]}, "snat"),
        ({"backends": ["10.0.0.3", {"address": "10.0.0.4", "snat": "10.0.0.3"}]}, "backends[1].snat"),
        ({"snat_by_client": [{"networks": ["198.51.100.0/24"], "snat": "10.0.0.3"}]}, "snat_by_client[0].snat"),
        # The backend is this host itself.
        ({"backends": ["10.0.0.1"], "snat": "10.0.0.1"}, ""),
        ({"snat": "10.0.0.1"}, ""),
    ],
)
def test_source_addresses_that_a_backend_has(keys: Any, key: str) -> None:
    says = f"service web: {key}: 10.0.0.3 is the address of backends[0], which gets the answers then; "
    remedy = "name an address of the balancer, or take masquerade"
    assert found(service(**keys)) == ([says + remedy] if key else [])


@pytest.mark.parametrize(
    ("snat", "away"),
    [
        ("masquerade", []),
        ("10.0.0.1", []),
        ("198.51.100.1", []),
        (["10.0.0.1", "10.0.0.99", "198.51.100.1"], ["10.0.0.99"]),
    ],
)
def test_source_addresses_whose_answers_come_to_another_host(snat: Any, away: list[str]) -> None:
    config = parse_config([service(snat=snat)])
    assert elsewhere(config.services, HERE.local, HERE.connected) == ({"web": away} if away else {})


def test_an_address_that_is_both_is_named_once() -> None:
    assert len(found(service("192.0.2.10:80", snat="192.0.2.10"))) == 1


#: The other service's `listen`, the backend of this one, and what is said of it.
TWICE = [
    ("192.0.2.2:81", {"address": "192.0.2.2", "port": 81}, "end on this host"),
    ("192.0.2.2:81-99", {"address": "192.0.2.2", "port": 90}, "end on this host"),
    ("*:81", {"address": "10.0.0.1", "port": 81}, "end on this host"),
    ("198.51.100.1:81", {"address": "198.51.100.1", "port": 81}, "go nowhere unless another balancer"),
    ("192.0.2.2:81", {"address": "192.0.2.2", "port": 82}, ""),
    ("192.0.2.2:81-99", {"address": "192.0.2.2", "port": 100}, ""),
    ("*:81", {"address": "10.0.0.3", "port": 81}, ""),
    ("*:81-90", {"address": "10.0.0.1"}, ""),
    # Another balancer has it, as in a pair where each is active for one address.
    ("192.0.2.50:81", {"address": "192.0.2.50", "port": 81}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("listen", "backend", "said"), TWICE)
def test_backends_that_are_frontends(listen: str, backend: dict[str, Any], said: str) -> None:
    other = {"name": "other", "listen": listen, "backends": [{"address": "10.0.0.4"}]}
    told = [text for text in found(service(backends=[backend]), other) if "frontend of" in text]
    assert bool(told) == bool(said)
    assert all(said in text and "is a frontend of service other here" in text for text in told)


def test_a_range_that_ends_behind_later_ones() -> None:
    others = [
        {"name": "wide", "listen": "192.0.2.2:1000-9000", "interface": "a", "backends": []},
        {"name": "narrow", "listen": "192.0.2.2:2000", "interface": "b", "backends": []},
    ]
    (told,) = found(service(backends=[{"address": "192.0.2.2", "port": 8000}]), *others)
    assert "frontend of service wide" in told


@pytest.mark.parametrize(
    ("listen", "warned"), [("198.51.100.1:80", True), ("192.0.2.2:80", False), ("[2001:db8:9::1]:80", True)]
)
def test_addresses_without_a_route(listen: str, warned: bool) -> None:
    told = [text for text in found(service(listen), needs_routes=("web",)) if "no route" in text]
    assert bool(told) == warned
    assert found(service(listen)) == []
    routed = HERE._replace(routes=[*HERE.routes, *((ipaddress.ip_network(n), "eth0") for n in ("0.0.0.0/0", "::/0"))])
    assert warnings(parse_config([service(listen)]), routed, ("web",)) == []


def test_a_route_that_refuses_is_none() -> None:
    ways = [("0.0.0.0/0", "eth0"), ("198.51.100.0/24", ""), ("198.51.100.128/25", "eth0")]
    here = HERE._replace(routes=[(ipaddress.ip_network(network), interface) for network, interface in ways])
    told = [
        bool(warnings(parse_config([service(f"198.51.{host}:80")]), here, ("web",)))
        for host in ("99.1", "100.1", "100.200")
    ]
    assert told == [False, True, False]


def test_it_takes_no_longer_per_service_with_many() -> None:
    """Ten thousand frontends on one local address, and as many backends on it."""
    services = [
        service(f"192.0.2.2:{10000 + i}", name=f"s{i}", backends=[{"address": "192.0.2.2", "port": 30000 + i}])
        for i in range(10000)
    ]
    assert found(*services, needs_routes=tuple(s["name"] for s in services)) == []
