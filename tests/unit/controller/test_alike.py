# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which differences between balancers matter, and how they are told."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.model.services import parse_config
from ansible_collections.natlb.netfilter.plugins.filter.fleet_differences import fleet_differences
from ansible_collections.natlb.netfilter.plugins.plugin_utils import alike

A, B = {"address": "10.0.0.3", "port": 80}, {"address": "10.0.0.4", "port": 80}


def service(**more: Any) -> dict[str, Any]:
    return {"name": "web", "listen": ["192.0.2.10:80"], "method": "source_hash", "backends": [A, B], **more}


def tables(*services: dict[str, Any]) -> list[dict[str, Any]]:
    return alike.tables(parse_config(list(services)))


SAME = service()


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (service(), False),
        (service(log=True, allow_from=["198.51.100.0/24"]), False),
        (service(listen=["192.0.2.11:80"], backends=[B]), False),
        (service(listen=["*:80"], backends=[B]), False),
        (service(protocol="udp", backends=[B]), False),
        (service(backends=[B, A]), True),
        (service(backends=[A]), True),
        (service(backends=[A, {**B, "port": 81}]), True),
        (service(backends=[A, {**B, "weight": 2}]), True),
        (service(backends=[A, {**B, "state": "drained"}]), True),
        (service(backends=[A, {**B, "backup": True}]), True),
        (service(method="flow_hash"), True),
        (service(client_prefix={"ipv4": 24}), True),
        (service(listen=["192.0.2.9:80", "192.0.2.10:80"], backends=[B]), True),
        (service(name="shop", backends=[A]), True),
        (service(interface="eth1", backends=[B]), False),
        (service(snat="none", max_connections_per_client=3), False),
    ],
)
def test_slots_for_one_address_are_those_of_the_first(other: dict[str, Any], differs: bool) -> None:
    told = alike.differences({"lb1": tables(SAME), "lb2": tables(other), "lb3": tables(SAME)})
    assert bool(told) == differs
    if differs:
        also = "" if other["name"] == "web" else " (web there)"
        begins = f"{other['name']}: lb2 would have other slots for tcp 192.0.2.10:80 than lb1{also}, so a client would"
        assert told[0].startswith(begins)
        assert len(told) == 1


@pytest.mark.parametrize(
    ("other", "pins", "differs"),
    [
        ("198.51.100.0/24", ["office one", "203.0.113.9 two"], False),
        ("198.51.100.0/25\n198.51.100.128/25", ["203.0.113.9 two", "office one"], False),
        ("198.51.100.0/24", ["198.51.100.0/24 one", "203.0.113.9 two"], False),
        ("198.51.100.0/25", ["office one", "203.0.113.9 two"], True),
        ("198.51.100.0/24", ["office two", "203.0.113.9 two"], True),
        ("198.51.100.0/24", ["office one"], True),
    ],
)
def test_pins_are_alike_where_they_pin_the_same_clients(other: str, pins: list[str], differs: bool) -> None:
    """By whatever names of lists."""

    def balancer(office: str, pins: list[str]) -> list[dict[str, Any]]:
        chosen = [dict(zip(("client", "backend"), pin.split(" "), strict=True)) for pin in pins]
        pinned = service(pins=chosen, backends=[{**A, "name": "one"}, {**B, "name": "two"}])
        return alike.tables(parse_config([pinned], networks={"office": office}))

    first = balancer("198.51.100.0/24", ["office one", "203.0.113.9 two"])
    assert bool(alike.differences({"lb1": first, "lb2": balancer(other, pins)})) == differs


def test_backups_that_join_otherwise() -> None:
    spares = [A, *({"address": f"10.0.0.{number}", "port": 80, "backup": True} for number in (8, 9))]
    both, first = service(backends=spares), service(backends=spares, backups="first")
    assert len(alike.differences({"lb1": tables(both), "lb2": tables(first)})) == 1
    assert alike.differences({"lb1": tables(first), "lb2": tables(first)}) == []


def test_one_address_by_interface_is_another_frontend() -> None:
    """As docs/services.md has it: no host differs from itself."""
    both = (service(), service(name="inside", interface="eth1", backends=[B]))
    assert alike.differences({"lb1": tables(*both), "lb2": tables(*both)}) == []
    other = (both[0], {**both[1], "backends": [A]})
    (told,) = alike.differences({"lb1": tables(*both), "lb2": tables(*other)})
    assert told.startswith("inside: lb2 would have other slots for tcp 192.0.2.10:80 on eth1 than lb1, so")
    seen = {name: alike.Balancer("nftables", "", "", tuple(tables(*both))) for name in ("lb1", "lb2")}
    assert alike.engines_that_differ(seen) == []


def test_a_host_is_not_compared_with_itself() -> None:
    twice = {"name": "web", "method": "source_hash", "listen": ["tcp 192.0.2.10:80"]}
    assert alike.differences({"lb1": [{**twice, "slots": "a"}, {**twice, "slots": "b"}]}) == []


@pytest.mark.parametrize(
    "more",
    [{"min_healthy": 2}, {"min_healthy": 1, "min_healthy_again": 2}],
)
def test_a_quorum_decides_who_serves(more: dict[str, Any]) -> None:
    one = service(health={"type": "tcp"}, min_healthy=1)
    assert alike.differences({"lb1": tables(one), "lb2": tables({**one, **more})})


def test_every_host_has_its_own_ports() -> None:
    own = {name: tables(service(listen=["*:80"], backends=[backend])) for name, backend in (("lb1", A), ("lb2", B))}
    assert alike.differences(own) == []


def host(
    engine: str, nft: str = "nftables v1.0.6", *services: dict[str, Any], kernel: str = "6.1", **more: Any
) -> dict[str, Any]:
    return {
        "natlb_balancer_done": {"engine": engine},
        "natlb_balancer_host": {"stdout_lines": ["missing conntrack", f"kernel {kernel}", f"nft {nft}"]},
        "natlb_run_checked": {"tables": tables(*(services or (SAME,)))},
        **more,
    }


def test_balancers_that_are_alike() -> None:
    hosts = {name: host("nftables") for name in ("lb1", "lb2")}
    assert fleet_differences(hosts, ["lb1", "lb2"]) == {"lines": ["all 2 balancers are alike"], "problems": []}


def test_all_that_differs_is_told() -> None:
    more = service(name="db", listen=["192.0.2.10:5432"])
    hosts = {
        "lb1": host("nftables"),
        "lb2": host("nftables", "nftables v1.1.3", SAME, more),
        "lb3": host("nftables", kernel="6.12"),
    }
    assert fleet_differences(hosts, list(hosts))["lines"] == [
        "kernel: 6.1 on lb1, lb2, 6.12 on lb3",
        "nft: nftables v1.0.6 on lb1, lb3, nftables v1.1.3 on lb2",
        "service db: only on lb2",
    ]


@pytest.mark.parametrize("method", ["source_hash", "flow_hash", "destination_hash", "round_robin", "random"])
def test_engines_pick_otherwise_by_a_hash(method: str) -> None:
    services = (service(method=method),)
    hosts = {"lb1": host("nftables", "v1", *services), "lb2": host("iptables", "v1", *services)}
    found = fleet_differences(hosts, ["lb1", "lb2"])
    assert found["lines"] == ["engine: nftables on lb1, iptables on lb2"]
    assert bool(found["problems"]) == method.endswith("hash")
    for line in found["problems"]:
        assert line.startswith("web: lb2 has it in iptables, lb1 in nftables, and these pick other backends")


@pytest.mark.parametrize("no", [False, "false", "no"])
def test_places_that_are_several_by_intention(no: Any) -> None:
    other = host("iptables", "v1", service(backends=[B]), natlb_compare_tables=no)
    assert fleet_differences({"lb1": host("nftables", "v1"), "lb2": other}, ["lb1", "lb2"])["problems"] == []


def test_what_is_not_known_differs_from_nothing() -> None:
    told = fleet_differences({"lb1": host("nftables"), "lb2": {}}, ["lb1", "lb2"])
    assert told == {"lines": ["service web: only on lb1"], "problems": []}
