# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Client networks that belong to a backend, while that serves."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import NAMES, VIP, VIP6, WEB6

PINS = [
    {"client": "198.18.0.0/17", "backend": "web1"},
    {"client": "198.18.7.0/24", "backend": "web2"},
    {"client": "198.18.7.77", "backend": "web3"},
    {"client": "2001:db8:18::/112", "backend": "web1-six"},
    {"client": "2001:db8:18::7", "backend": "web2-six"},
]
#: Clients, and the backend that they are pinned to.
PINNED = {"198.18.3.1": "web1", "198.18.7.1": "web2", "198.18.7.77": "web3", "198.18.7.78": "web2"}
PINNED6 = {"2001:db8:18::6": "web1", "2001:db8:18::7": "web2", "2001:db8:18::8": "web1"}
#: Of no network that is pinned.
OTHERS = [f"198.18.200.{n}" for n in range(1, 25)]
WAYS = {
    "round_robin": {},
    "random": {"method": "random"},
    "source_hash": {"method": "source_hash"},
    "affinity": {"affinity": 60},
    "range": {"listen": [f"{VIP}:80-82", f"[{VIP6}]:80-82"]},
    "limited": {"max_connections_per_client": 50, "log": True, "allow_from": ["198.18.0.0/16", "2001:db8:18::/64"]},
}


def declared(web1: Mapping | None = None, **keys: Any) -> Mapping:
    """Web1 may be in another state."""
    six = [{"name": f"{name}-six", "address": WEB6[name]} for name in NAMES]
    first = [{**webs("web1")[0], **(web1 or {})}, *webs("web2", "web3", "web4")]
    listen = [f"{VIP}:80", f"[{VIP6}]:80"]
    return service(**{"listen": listen, "protocol": ["tcp", "udp"], "pins": PINS, "backends": [*first, *six], **keys})


def homes(balancer: Balancer, clients: Any, **options: Any) -> list[str]:
    target = f"[{VIP6}]:80" if ":" in next(iter(clients)) else f"{VIP}:80"
    return [answer.name for answer in balancer.ask(target, len(clients), sources=list(clients), **options)]


@pytest.mark.parametrize("way", WAYS)
def test_pinned_clients_have_their_backend(balancer: Balancer, way: str) -> None:
    balancer.apply([declared(**WAYS[way])])
    for _unused in range(2):
        assert homes(balancer, PINNED) == list(PINNED.values())
        assert homes(balancer, PINNED6) == list(PINNED6.values())
        assert homes(balancer, PINNED, protocol="udp") == list(PINNED.values())
    assert set(homes(balancer, OTHERS)) == set(NAMES)
    assert balancer.apply([declared(**WAYS[way])]).changed is False
    info = balancer.info()
    counted = {backend["name"]: backend["new_connections"] for backend in info["services"][0]["backends"]}
    assert sum(counted.values()) == 2 * (2 * len(PINNED) + len(PINNED6)) + len(OTHERS)
    assert info["services"][0]["pins"] == len(PINS)
    assert not info["drift"]


@pytest.mark.parametrize("out", [{"state": "drained"}, {"state": "disabled"}, {"weight": 0}, {"backup": True}], ids=str)
@pytest.mark.parametrize("way", ["round_robin", "source_hash", "affinity"])
def test_a_backend_that_does_not_serve_has_no_pins(balancer: Balancer, way: str, out: Mapping) -> None:
    """And no network around has its clients instead."""
    backends = [*webs("web1", "web2", "web3"), *webs("web4", **out)]
    pins = [{"client": "198.18.0.0/16", "backend": "web1"}, {"client": "198.18.7.0/24", "backend": "web4"}]
    balancer.apply([service(pins=pins, **WAYS[way])])
    clients = [f"198.18.7.{n}" for n in range(1, 31)]
    assert set(homes(balancer, clients)) == {"web4"}
    balancer.apply([service(pins=pins, backends=backends, **WAYS[way])])
    away = homes(balancer, clients)
    assert set(away) == {"web1", "web2", "web3"}
    assert set(homes(balancer, OTHERS)) == {"web1"}
    balancer.apply([service(pins=pins, **WAYS[way])])
    assert set(homes(balancer, clients)) == {"web4"}


def test_pins_do_not_let_anybody_in(balancer: Balancer) -> None:
    balancer.apply([declared(deny_from=["198.18.7.0/24"])])
    assert homes(balancer, ["198.18.3.1", "198.18.7.1"]) == ["web1", ""]


def test_pins_come_and_go(balancer: Balancer) -> None:
    balancer.apply([declared(pins=[])])
    before = balancer.snapshot()
    for pins in (PINS, PINS[1:], [{"client": "0.0.0.0/0", "backend": "web4"}], [{**PINS[0], "backend": "web3"}]):
        assert balancer.apply([declared(pins=pins)]).transaction == "delta"
        for pin in pins:
            first = pin["client"].partition("/")[0]
            client = "198.18.99.9" if first in ("198.18.0.0", "0.0.0.0") else first
            assert homes(balancer, [client]) == [pin["backend"].removesuffix("-six")], client
    balancer.apply([declared(pins=[])])
    assert balancer.snapshot() == before


def test_many_pins(balancer: Balancer) -> None:
    """As many as there may be, in each other."""
    pins = [{"client": f"198.18.{i >> 4}.{(i & 15) << 4}/{28 + (i & 3)}", "backend": NAMES[i % 4]} for i in range(4095)]
    balancer.apply([service(pins=[*pins, {"client": "198.18.0.0/15", "backend": "web2"}])])
    numbers = [*range(0, 4095, 97), 4094]
    clients = [f"198.18.{i >> 4}.{((i & 15) << 4)}" for i in numbers]
    assert homes(balancer, clients) == [NAMES[i % 4] for i in numbers]
    # One after the end of a network that has only a part of its sixteen addresses.
    assert homes(balancer, ["198.18.0.63"]) == ["web2"]
    balancer.apply([service(pins=pins)])
    assert homes(balancer, clients) == [NAMES[i % 4] for i in numbers]
    balancer.backend("web1", "drained")
    assert "web1" not in homes(balancer, clients)
    balancer.remove()
    assert not balancer.ours_left()
