# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services that claim the same packets up to the interface: each connection gets the source NAT of its own service."""

from __future__ import annotations

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import BACK, BACK6, CLIENT, CLIENT6, FRONT, FRONT6, VIP, WEB, WEB6

REFLECTED = "10.0.0.200"
INSIDE = "web2"
#: What the backend sees: of a client on `front`, and of web2 on `back`.
SEEN = {"none": (CLIENT, BACK), "masquerade": (BACK, BACK), REFLECTED: (REFLECTED, REFLECTED)}


def pair(one: str, two: str, snats: tuple[str, str], **keys: object) -> list[Mapping]:
    """A service on `front` and one on `back`, before the same backend."""
    names = [("outside", one, "front", snats[0]), ("inside", two, "back", snats[1])]
    keys.setdefault("backends", webs("web1"))
    return [service(name, listen=listen, interface=link, snat=snat, **keys) for name, listen, link, snat in names]


def peers(balancer: Balancer, target: str, protocol: str = "tcp") -> tuple[str, str]:
    (outside,) = balancer.ask(target, protocol=protocol)
    (inside,) = balancer.lab.backends[INSIDE].call(traffic.ask, target, protocol=protocol)
    assert (outside.name, inside.name) == ("web1", "web1"), (outside, inside)
    return outside.peer, inside.peer


@pytest.mark.parametrize("snats", [("none", REFLECTED), (REFLECTED, "masquerade")], ids=str)
@pytest.mark.parametrize(
    ("one", "two", "port"),
    [
        ("*:80", f"{FRONT}:80", 80),
        (f"{FRONT}:80", "*:80", 80),
        ("*:80", "*:80", 80),
        (f"{FRONT}:80", f"{FRONT}:80", 80),
        (f"{FRONT}:9000-9003", f"{FRONT}:9002", 9002),
        (f"{FRONT}:9002", f"{FRONT}:9000-9003", 9002),
        (f"{FRONT}:9000-9002", f"{FRONT}:9001-9003", 9002),
        ("*:9000-9002", f"{FRONT}:9001-9003", 9002),
        ("*:9000-9002", "*:9001-9003", 9001),
    ],
)
def test_overlapping_frontends_keep_their_source_nat(
    balancer: Balancer, one: str, two: str, port: int, snats: tuple[str, str]
) -> None:
    balancer.host.ip(f"address add {REFLECTED}/32 dev back")
    balancer.apply(pair(one, two, snats))
    assert not balancer.apply(pair(one, two, snats)).changed
    assert peers(balancer, f"{FRONT}:{port}") == (SEEN[snats[0]][0], SEEN[snats[1]][1])


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("snats", [("none", VIP), (VIP, "none")], ids=str)
def test_clients_outside_and_a_reflected_inside(balancer: Balancer, snats: tuple[str, str], protocol: str) -> None:
    """The way of home routers: everybody outside is seen, and those inside come by the public address."""
    balancer.host.ip(f"address add {VIP}/32 dev front")
    balancer.apply(pair("*:80", f"{VIP}:80", snats, protocol=["tcp", "udp"]))
    seen = {"none": (CLIENT, BACK), VIP: (VIP, VIP)}
    assert peers(balancer, f"{VIP}:80", protocol) == (seen[snats[0]][0], seen[snats[1]][1])


def test_over_ipv6(balancer: Balancer) -> None:
    balancer.apply(pair("*:80", f"[{FRONT6}]:80", ("none", "masquerade"), backends=[{"address": WEB6["web1"]}]))
    assert peers(balancer, f"[{FRONT6}]:80") == (CLIENT6, BACK6)
    balancer.apply(pair("*:80", f"[{FRONT6}]:80", ("masquerade", "none"), backends=[{"address": WEB6["web1"]}]))
    assert peers(balancer, f"[{FRONT6}]:80") == (BACK6, BACK6)


@pytest.mark.parametrize("ports", [None, 80])
@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_a_port_within_a_range_on_another_interface(balancer: Balancer, snat: str, ports: int | None) -> None:
    """Equal in all but the interface: nothing to tell apart, and nothing to refuse."""
    backends = webs("web1", **({"port": ports} if ports else {}))
    declared = pair(f"{VIP}:9000-9003", f"{VIP}:9002", (snat, snat), backends=backends)
    balancer.apply(declared)
    assert not balancer.apply(declared).changed
    assert peers(balancer, f"{VIP}:9002") == SEEN[snat]
    balancer.apply(list(reversed(declared)))
    assert peers(balancer, f"{VIP}:9002") == SEEN[snat]


def test_the_host_itself_and_others_are_not_concerned(balancer: Balancer) -> None:
    balancer.apply(pair("*:80", f"{FRONT}:80", ("none", "masquerade")), transit="accept")
    assert balancer.ask(f"{WEB['web1']}:80")[0].peer == CLIENT
    (own,) = balancer.host.call(traffic.ask, f"{CLIENT}:80")
    assert own.peer == FRONT


@pytest.mark.parametrize("snats", [("none", "masquerade"), ("masquerade", "none")], ids=str)
def test_beside_services_on_every_interface(balancer: Balancer, snats: tuple[str, str]) -> None:
    declared = [
        *pair("*:8080", f"{FRONT}:8080", snats),
        service("plain", snat=snats[1], backends=webs("web1")),
        service("node", listen="*:9000", snat=snats[0], backends=webs("web1")),
    ]
    balancer.apply(declared)
    assert peers(balancer, f"{FRONT}:8080") == (SEEN[snats[0]][0], SEEN[snats[1]][1])
    assert peers(balancer, f"{VIP}:80") == SEEN[snats[1]]
    assert peers(balancer, f"{FRONT}:9000") == SEEN[snats[0]]
