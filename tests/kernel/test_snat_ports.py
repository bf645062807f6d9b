# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The source ports that backends see where a service names a range of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import BACK, BACK6, CLIENT, VIP, VIP6, WEB6

OWN = ["10.0.0.200", "10.0.0.201"]
OWN6 = ["2001:db8:2::200"]
RANGE = range(20000, 30000)
BOTH = [*webs("web1"), {"address": WEB6["web1"]}]
SNATS: dict[str, tuple[Any, set[str], set[str]]] = {
    "masquerade": ("masquerade", {BACK}, {BACK6}),
    "address": ([OWN[0], *OWN6], {OWN[0]}, set(OWN6)),
    "addresses": ([*OWN, *OWN6], set(OWN), set(OWN6)),
}


LOCAL_PORTS = "ipv4/ip_local_port_range"


@pytest.fixture(autouse=True)
def _no_port_is_of_the_range_by_itself(balancer: Balancer) -> Iterator[None]:
    """What the client takes by itself; the other hosts take none of them anyway."""
    balancer.client.sysctl({LOCAL_PORTS: "40000 49999"})
    yield
    balancer.client.sysctl({LOCAL_PORTS: "1024 65535"})


def own_addresses(balancer: Balancer) -> None:
    for address in OWN:
        balancer.host.ip(f"address replace {address}/32 dev back")
    # A masquerade does not choose an address of IPv6 that is deprecated.
    balancer.host.ip(f"address replace {OWN6[0]}/128 dev back preferred_lft 0")


def declared(ports: Any = "20000-29999", **keys: Any) -> Mapping:
    listen = [f"{VIP}:80", f"[{VIP6}]:80"]
    given = {"listen": listen, "protocol": ["tcp", "udp"], "backends": BOTH, "snat_ports": ports, **keys}
    return service(**{key: value for key, value in given.items() if value is not None})


@pytest.mark.parametrize("kind", SNATS)
def test_backends_see_ports_of_the_range(balancer: Balancer, kind: str) -> None:
    own_addresses(balancer)
    snat, peers, peers6 = SNATS[kind]
    balancer.apply([declared(snat=snat), service("other", listen=f"{VIP}:443", backends=webs(port=80))])
    for protocol in ("tcp", "udp"):
        for target, seen in ((f"{VIP}:80", peers), (f"[{VIP6}]:80", peers6)):
            answers = balancer.ask(target, 60, protocol=protocol)
            assert {answer.peer for answer in answers} == seen
            assert all(answer.peer_port in RANGE for answer in answers), [answer.peer_port for answer in answers]
    # The client's own ports are not of the range, and stay where no range is asked for.
    ((_handle, other),) = balancer.hold(f"{VIP}:443", source_port=40001)
    assert other.peer_port == 40001
    again = balancer.apply([declared(snat=snat), service("other", listen=f"{VIP}:443", backends=webs(port=80))])
    assert not again.changed
    assert not balancer.info()["drift"]
    balancer.remove()
    assert not balancer.ours_left()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_of_the_range_is_kept_where_it_is_free(balancer: Balancer, protocol: str) -> None:
    balancer.apply([declared()])
    sources = [f"198.18.7.{number}" for number in range(1, 21)]
    held = [balancer.hold(f"{VIP}:80", protocol=protocol, source=one, source_port=25000)[0] for one in sources]
    ports = [answer.peer_port for _handle, answer in held]
    assert ports[0] == 25000
    assert len(set(ports)) == len(sources)
    assert all(port in RANGE for port in ports)


def test_as_many_connections_as_ports(balancer: Balancer) -> None:
    """And one more gets no answer, until one of them is gone."""
    outcome = balancer.apply([declared("20000-20003")])
    (warning,) = [warning for warning in outcome.warnings if "snat_ports" in warning]
    assert warning.startswith("service web: snat_ports 20000-20003 allows 4 connections at a time to one backend")
    held = balancer.hold(f"{VIP}:80", 4)
    assert {answer.peer_port for _handle, answer in held} == {20000, 20001, 20002, 20003}
    assert [answer.name for answer in balancer.ask(f"{VIP}:80", 1)] == [""]
    assert [balancer.talk(handle).name for handle, _answer in held] == ["web1"] * 4
    balancer.apply([declared("20000-20007")])
    assert [answer.name for answer in balancer.ask(f"{VIP}:80", 2)] == ["web1"] * 2


def test_only_what_is_translated_has_them(balancer: Balancer) -> None:
    own_addresses(balancer)
    rules = [
        {"networks": ["198.18.7.0/24"], "snat": "none"},
        {"networks": ["198.18.8.0/24"], "snat": OWN[0]},
        {"networks": ["198.18.9.0/24"], "snat": OWN},
    ]
    backends = webs("web1", snat=OWN[1])
    for keys, seen in (({}, {BACK}), ({"backends": backends}, {OWN[1]})):
        balancer.apply([declared(**{"backends": webs("web1"), "listen": f"{VIP}:80", "snat_by_client": rules, **keys})])
        for client, peers, kept in (
            ("198.18.7.7", {"198.18.7.7"}, True),
            ("198.18.8.8", {OWN[0]}, False),
            ("198.18.9.9", set(OWN), False),
            ("198.18.10.1", seen, False),
        ):
            held = balancer.hold(f"{VIP}:80", 20, source=client)
            assert {answer.peer for _handle, answer in held} <= peers
            ports = {answer.peer_port in RANGE for _handle, answer in held}
            assert (ports == {True}) != kept, (client, [answer.peer_port for _handle, answer in held])
            balancer.client.call(traffic.release)


def test_ports_come_and_go(balancer: Balancer) -> None:
    balancer.apply([declared(None)])
    before = lines(balancer)
    ((tcp, first),) = balancer.hold(f"{VIP}:80", source_port=40001)
    ((udp, _answer),) = balancer.hold(f"{VIP}:80", protocol="udp", source_port=40001)
    assert first.peer_port == 40001
    assert balancer.apply([declared()]).transaction == "delta"
    assert balancer.talk(tcp).peer_port == 40001
    assert balancer.talk(udp).peer_port in RANGE, "a flow of UDP begins anew"
    outcome = balancer.apply([declared("50000-59999")])
    assert outcome.transaction == "delta"
    assert not [warning for warning in outcome.warnings if "snat_ports" in warning]
    assert all(answer.peer_port in range(50000, 60000) for answer in balancer.ask(f"{VIP}:80", 5))
    assert balancer.apply([declared(None)]).transaction == "delta"
    assert lines(balancer) == before


def lines(balancer: Balancer) -> dict[str, list[str]]:
    """All rules. A chain that comes again is listed behind the others."""
    return {name: sorted(text.splitlines()) for name, text in balancer.snapshot().items()}


def test_the_balancer_and_backends_are_clients(balancer: Balancer) -> None:
    balancer.apply([declared()])
    for host in (balancer.host, balancer.lab.backends["web1"]):
        answers = host.call(traffic.ask, f"{VIP}:80", 5)
        assert {(answer.name, answer.peer, answer.peer_port in RANGE) for answer in answers} == {("web1", BACK, True)}
    assert balancer.ask(f"{VIP}:80")[0].peer != CLIENT
