# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role `anycast` announces, and what is wrong with its variables."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.filter.anycast_addresses import FilterModule
from ansible_collections.natlb.netfilter.plugins.plugin_utils import anycast

BACKENDS = [{"address": "10.0.0.3"}]
addresses = FilterModule().filters()["anycast_addresses"]
RIGHT: dict[str, Any] = {
    "natlb_anycast_as": 64513,
    "natlb_anycast_neighbors": [{"address": "192.0.2.1", "as": 64512}, {"address": "2001:db8:1::1", "as": "64512"}],
    "natlb_anycast_addresses": ["203.0.113.10"],
}


@pytest.mark.parametrize(
    ("listen", "found"),
    [
        (["203.0.113.10:80", "203.0.113.10:443", "203.0.113.9:80"], ["203.0.113.9", "203.0.113.10"]),
        (["[2001:DB8:113:0::10]:80", "203.0.113.10:80-90"], ["203.0.113.10", "2001:db8:113::10"]),
        (["*:80", "203.0.113.128/25:80"], []),
    ],
)
def test_addresses_of_services(listen: list[str], found: list[str]) -> None:
    backends = [*BACKENDS, *([{"address": "2001:db8:2::3"}] if any("::" in item for item in found) else [])]
    assert addresses([{"name": "web", "listen": listen, "backends": backends}]) == found


@pytest.mark.parametrize(
    "keys",
    [
        {"allow_from": "office"},
        {"deny_from": ["blocked", "203.0.113.9"]},
        {"allow_from": ["office", "2001:db8:7::/48"], "deny_from": "203.0.113.9"},
        {"snat_by_client": [{"networks": ["pods"], "snat": ["10.0.0.21", "2001:db8:2::21"]}], "snat_ports": 2000},
        {"snat_by_client": [{"networks": ["pods", "203.0.113.9"], "snat": ["10.0.0.21", "2001:db8:2::21"]}]},
        {"snat": "none", "snat_by_client": [{"networks": "pods", "snat": "masquerade"}], "snat_ports": 2000},
        {"pins": [{"client": "office", "backend": "10.0.0.3"}, {"client": "pods", "backend": "10.0.0.3"}]},
    ],
)
def test_names_of_lists_are_for_the_balancer_to_know(keys: dict[str, Any]) -> None:
    assert addresses([{"name": "web", "listen": "203.0.113.10:80", "backends": BACKENDS, **keys}]) == ["203.0.113.10"]


def test_services_whose_source_nat_names_lists_are_not_compared() -> None:
    """Both may name the same networks, each in its own words."""
    by_client = [[{"networks": name, "snat": "none"}] for name in ("pods", "10.244.0.0/16")]
    listens = ("*:80", "203.0.113.0/24:80")
    services = [
        {"name": f"s{n}", "listen": [listen, f"203.0.113.1{n}:81"], "backends": BACKENDS, "snat_by_client": rules}
        for n, (listen, rules) in enumerate(zip(listens, by_client, strict=True))
    ]
    assert addresses(services) == ["203.0.113.10", "203.0.113.11"]


def test_addresses_stay_and_are_there_once() -> None:
    service = {"name": "web", "listen": "203.0.113.10:80", "backends": BACKENDS}
    assert addresses([service, "203.0.113.10", "203.0.113.2"]) == ["203.0.113.2", "203.0.113.10"]
    with pytest.raises(AnsibleFilterError, match="anycast_addresses"):
        addresses(["one"])


def test_all_that_is_wrong_with_addresses_is_told_at_once() -> None:
    items = ["one", "203.0.113.10", "127.0.0.1", {"name": "web", "listen": "203.0.113.10:80", "backends": [], "x": 1}]
    with pytest.raises(AnsibleFilterError) as caught:
        addresses(items)
    told = [line.rpartition("anycast_addresses: ")[2] for line in str(caught.value).splitlines()]
    paths = [line.partition(": ")[0] for line in told]
    assert paths == ["natlb_anycast_addresses[0]", "natlb_anycast_addresses[2]", "services[0].x"]
    found = anycast.problems({**RIGHT, "natlb_anycast_addresses": items, "natlb_anycast_as": 0})
    assert sum(map(len, map(str.splitlines, found))) == 4


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"natlb_anycast_hold_time": "3", "natlb_anycast_router_id": "192.0.2.2"},
        {"natlb_anycast_neighbors": [{"address": "192.0.2.1", "as": 4200000000, "password": "a b", "multihop": 2}]},
    ],
)
def test_what_is_right(more: dict[str, Any]) -> None:
    assert anycast.problems({**RIGHT, **more}) == []


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"natlb_anycast_as": None}, "natlb_anycast_as: is not set for this host"),
        ({"natlb_anycast_as": 0}, "natlb_anycast_as: "),
        ({"natlb_anycast_neighbors": []}, "natlb_anycast_neighbors: is empty"),
        ({"natlb_anycast_neighbors": [{"address": "192.0.2.1"}]}, "natlb_anycast_neighbors[0].as: "),
        ({"natlb_anycast_neighbors": [{"address": "router", "as": 1}]}, "natlb_anycast_neighbors[0].address: "),
        (
            {"natlb_anycast_neighbors": [{**RIGHT["natlb_anycast_neighbors"][0], "hops": 2}]},
            "natlb_anycast_neighbors[0]",
        ),
        (
            {"natlb_anycast_neighbors": [{**RIGHT["natlb_anycast_neighbors"][0], "multihop": 0}]},
            "natlb_anycast_neighbors[0].multihop: ",
        ),
        (
            {"natlb_anycast_neighbors": [{**RIGHT["natlb_anycast_neighbors"][0], "password": 'a"b'}]},
            "natlb_anycast_neighbors[0].password: has a quotation mark",
        ),
        (
            {
                "natlb_anycast_bfd": "yes",
                "natlb_anycast_neighbors": [{**RIGHT["natlb_anycast_neighbors"][0], "multihop": 2}],
            },
            "natlb_anycast_neighbors[0].source: is missing",
        ),
        (
            {"natlb_anycast_neighbors": [{**RIGHT["natlb_anycast_neighbors"][0], "password": ""}]},
            "natlb_anycast_neighbors[0].password: is empty",
        ),
        (
            {"natlb_anycast_neighbors": [{**RIGHT["natlb_anycast_neighbors"][0], "source": "2001:db8:1::2"}]},
            "natlb_anycast_neighbors[0].source: is of another family",
        ),
        (
            {"natlb_anycast_neighbors": [*RIGHT["natlb_anycast_neighbors"], {"address": "2001:DB8:1:0::1", "as": 1}]},
            "natlb_anycast_neighbors[2].address: 2001:db8:1::1 is that of natlb_anycast_neighbors[1], too",
        ),
        (
            {
                "natlb_anycast_neighbors": RIGHT["natlb_anycast_neighbors"][:1],
                "natlb_anycast_addresses": ["203.0.113.10", "2001:db8:113::10", "2001:db8:113::11"],
            },
            "natlb_anycast_neighbors: no router is told of 2001:db8:113::10, as none is reached by IPv6",
        ),
        ({"natlb_anycast_addresses": []}, "natlb_anycast_addresses: is empty"),
        ({"natlb_anycast_addresses": ["127.0.0.1"]}, "natlb_anycast_addresses[0]: 127.0.0.1"),
        ({"natlb_anycast_router_id": "7"}, "natlb_anycast_router_id: '7'"),
        ({"natlb_anycast_hold_time": 2}, "natlb_anycast_hold_time: "),
        ({"natlb_anycast_check_interval": 61}, "natlb_anycast_check_interval: "),
    ],
)
def test_what_is_wrong(more: dict[str, Any], path: str) -> None:
    (problem,) = anycast.problems({**RIGHT, **more})
    assert problem.startswith(path), problem
