# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A listening address that is routed to the balancer and local to nobody: what comes for its other ports."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_lab import topology, traffic
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import BACK, CLIENT, CLIENT6, FRONT, FRONT6, WEB6

FAR, FAR6 = "203.0.113.7", "3fff::7"
#: Counts what goes back to where it came from, before anybody refuses it.
LOOPS = """
table inet other {
    chain forward { type filter hook forward priority -50; iifname "front" oifname "front" counter; }
}
"""


#: The senders are inside here. Where natlb itself has turned forwarding on, they would not get out at all.
OPEN = {"transit": "accept"}


@pytest.fixture
def routed(balancer: Balancer) -> Iterator[Balancer]:
    """The client is the router of both addresses, and the balancer's way to everywhere."""
    forwarding = ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
    balancer.host.ip(f"route add default via {CLIENT}\nroute add default via {CLIENT6}")
    balancer.host.run("nft", "-f", "-", stdin=LOOPS)
    # The sender is inside here, so a strict check of the way back would end the loop. It does not where one is outside.
    balancer.host.sysctl({"ipv4/conf/all/rp_filter": 0, "ipv4/conf/front/rp_filter": 0})
    balancer.client.sysctl(dict.fromkeys(forwarding, 1))
    yield balancer
    # A host that does not forward any more believes redirects again (inet_forward_change in net/ipv4/devinet.c).
    balancer.client.sysctl({**dict.fromkeys(forwarding, 0), **topology.QUIET})


def turned_back(balancer: Balancer) -> int:
    listing = balancer.host.run("nft", "list", "chain", "inet", "other", "forward")
    return int(listing.split("counter packets ")[1].split()[0])


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("vip", [FAR, f"[{FAR6}]"])
def test_other_ports_are_refused_once(routed: Balancer, vip: str, protocol: str) -> None:
    backends = webs("web1") if vip == FAR else [{"address": WEB6["web1"]}]
    routed.apply([service(listen=f"{vip}:80", protocol=["tcp", "udp"], backends=backends)], **OPEN)
    inside = routed.lab.backends["web2"]
    (answer,) = inside.call(traffic.ask, f"{vip}:8080", protocol=protocol)
    assert answer.error == "ConnectionRefusedError"
    assert turned_back(routed) == 1, "it had gone to the router, and come back"
    (served,) = inside.call(traffic.ask, f"{vip}:80", protocol=protocol)
    assert served.name == "web1"
    assert turned_back(routed) == 1


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_they_are_refused_where_nothing_else_is_forwarded(routed: Balancer, protocol: str) -> None:
    """What is closed for others drops in silence; a client hears of this all the same."""
    # A redirect counts against the rate at which the kernel sends a host errors, and comes first (ip_rt_send_redirect).
    routed.host.sysctl({"ipv4/conf/all/send_redirects": 0, "ipv4/conf/front/send_redirects": 0})
    routed.apply([service(listen=f"{FAR}:80", backends=webs("web1"))])
    assert routed.ask(f"{FAR}:8080", protocol=protocol)[0].error == "ConnectionRefusedError"


@pytest.mark.parametrize("vip", [FAR, FAR6])
def test_a_ping_is_answered_by_nobody(routed: Balancer, vip: str) -> None:
    listen, backends = (f"{vip}:80", webs("web1")) if vip == FAR else (f"[{vip}]:80", [{"address": WEB6["web1"]}])
    routed.apply([service(listen=listen, backends=backends)], **OPEN)
    inside = routed.lab.backends["web2"]
    assert inside.call(traffic.ping, vip) == "ConnectionRefusedError", "port unreachable, once"
    assert turned_back(routed) == 1
    assert inside.call(traffic.ping, CLIENT if vip == FAR else CLIENT6) == "answered"


@pytest.mark.parametrize("keys", [{"allow_from": "198.18.0.0/16"}, {"backends": [], "when_empty": "drop"}], ids=str)
def test_beside_a_service_that_refuses(routed: Balancer, keys: dict[str, object]) -> None:
    routed.apply([service(**{"listen": f"{FAR}:80", "backends": webs("web1"), **keys})], **OPEN)
    (answer,) = routed.lab.backends["web2"].call(traffic.ask, f"{FAR}:8080")
    assert (answer.error, turned_back(routed)) == ("ConnectionRefusedError", 1)


def test_what_passes_through_is_left_alone(routed: Balancer) -> None:
    """An address of the internet whose port 80 is taken on its way out: its other ports are somebody's."""
    routed.client.ip(f"address add {FAR}/32 dev lo")
    try:
        routed.apply([service(listen=f"{FAR}:80", backends=webs("web1"))], **OPEN)
        inside = routed.lab.backends["web2"]
        assert inside.call(traffic.ask, f"{FAR}:80")[0].name == "web1"
        assert inside.call(traffic.ask, f"{FAR}:8080")[0].name == "client"
    finally:
        routed.client.ip(f"address delete {FAR}/32 dev lo")


def test_an_address_that_a_route_leads_to_is_left_alone(routed: Balancer) -> None:
    """Another host may have it, also by the way on which its packets came in."""
    routed.host.ip(f"route add {FAR}/32 via {CLIENT}")
    routed.apply([service(listen=f"{FAR}:80", backends=webs("web1"))], **OPEN)
    assert (
        routed.lab.backends["web2"].call(traffic.ask, f"{FAR}:8080", timeout_s=0.3)[0].error != "ConnectionRefusedError"
    )
    assert turned_back(routed) > 20


def test_a_change_of_the_balancers_addresses_changes_no_rule(routed: Balancer) -> None:
    """A virtual address comes and goes, and the rules are those of both."""
    declared = [service(listen=[f"{FAR}:80", f"[{FAR6}]:80"], backends=[*webs("web1"), {"address": WEB6["web1"]}])]
    routed.apply(declared, **OPEN)
    routed.host.ip(f"address add {FAR}/32 dev front\naddress add {FAR6}/128 dev front nodad")
    assert not routed.apply(declared, **OPEN).changed


def test_its_own_addresses_are_its_own(routed: Balancer) -> None:
    routed.apply(
        [
            service(
                listen=[f"{FRONT}:80", f"{FAR}:80", f"[{FRONT6}]:80"],
                backends=[*webs("web1"), {"address": WEB6["web1"]}],
            )
        ],
        **OPEN,
    )
    (answer,) = routed.ask(f"{FRONT}:8080")
    assert answer.error == "ConnectionRefusedError"
    assert routed.ask(f"{BACK}:8080")[0].error == "ConnectionRefusedError"
    assert turned_back(routed) == 0
