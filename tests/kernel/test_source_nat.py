# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the backends see, and that their answers find the way back: also to clients that are backends themselves."""

from __future__ import annotations

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import BACK, BACK6, CLIENT, CLIENT6, FRONT, FRONT6, NAMES, VIP, VIP6, WEB, WEB6

ANOTHER = "10.0.0.200"
PROTOCOLS = pytest.mark.parametrize("protocol", ["tcp", "udp"])


@PROTOCOLS
@pytest.mark.parametrize(("snat", "peer", "peer6"), [("masquerade", BACK, BACK6), ("none", CLIENT, CLIENT6)])
def test_the_backend_sees(balancer: Balancer, protocol: str, snat: str, peer: str, peer6: str) -> None:
    backends = [*webs("web1"), {"address": WEB6["web1"]}]
    balancer.apply([service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], protocol=protocol, snat=snat, backends=backends)])
    assert [a.peer for a in balancer.ask(count=2, protocol=protocol)] == [peer, peer]
    assert [a.peer for a in balancer.ask(f"[{VIP6}]:80", 2, protocol=protocol)] == [peer6, peer6]


@PROTOCOLS
def test_a_fixed_address(balancer: Balancer, protocol: str) -> None:
    for link, address in (("back", f"{ANOTHER}/32"), ("back", "2001:db8:2::200/128")):
        balancer.host.ip(f"address add {address} dev {link}")
    backends = [*webs("web1"), {"address": WEB6["web1"]}]
    listen = [f"{VIP}:80", f"[{VIP6}]:80"]
    snat = [ANOTHER, "2001:db8:2::200"]
    balancer.apply([service(listen=listen, protocol=protocol, snat=snat, backends=backends)])
    assert {a.peer for a in balancer.ask(count=3, protocol=protocol)} == {ANOTHER}
    assert {a.peer for a in balancer.ask(f"[{VIP6}]:80", 3, protocol=protocol)} == {"2001:db8:2::200"}


@PROTOCOLS
def test_a_list_of_addresses_is_used_all(balancer: Balancer, protocol: str) -> None:
    addresses = [ANOTHER, "10.0.0.201", "10.0.0.202"]
    for address in addresses:
        balancer.host.ip(f"address add {address}/32 dev back")
    balancer.apply([service(protocol=protocol, snat=addresses)])
    seen = {a.peer for a in balancer.ask(count=120, protocol=protocol)}
    # 120 fair draws miss one of three addresses with a chance of 2e-21.
    assert seen == set(addresses)


@PROTOCOLS
@pytest.mark.parametrize("snat", ["masquerade", ANOTHER])
def test_a_port_is_kept_where_it_is_free(balancer: Balancer, protocol: str, snat: str) -> None:
    """Clients that use the same port at once are kept apart; one that comes again with its port meets its own past."""
    balancer.host.ip(f"address add {ANOTHER}/32 dev back")
    balancer.apply([service(protocol=protocol, snat=snat, backends=webs("web1"))])
    sources = [f"198.18.7.{number}" for number in range(1, 41)]
    held = [balancer.hold(protocol=protocol, source=source, source_port=40000)[0] for source in sources]
    ports = [answer.peer_port for _handle, answer in held]
    assert ports[0] == 40000
    assert len(set(ports)) == len(sources), ports
    assert [balancer.talk(handle).peer_port for handle, _answer in held] == ports


@PROTOCOLS
@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_a_backend_is_a_client(balancer: Balancer, protocol: str, snat: str) -> None:
    balancer.apply([service(protocol=protocol, snat=snat)])
    for name in NAMES[:2]:
        answers = balancer.lab.backends[name].call(traffic.ask, f"{VIP}:80", 8, protocol=protocol)
        assert traffic.tally(answers) == dict.fromkeys(NAMES, 2), "each in turn, itself as well"
        assert {answer.peer for answer in answers} == {BACK}, "replies have to come back through the balancer"


@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_a_backend_is_a_client_over_ipv6(balancer: Balancer, snat: str) -> None:
    backends = [{"address": address} for address in WEB6.values()]
    balancer.apply([service(listen=f"[{VIP6}]:80", snat=snat, backends=backends)])
    answers = balancer.lab.backends["web1"].call(traffic.ask, f"[{VIP6}]:80", 8)
    assert traffic.tally(answers) == dict.fromkeys(NAMES, 2)


@pytest.mark.parametrize("snat", ["masquerade", "none"])
@pytest.mark.parametrize("vip", [VIP, FRONT], ids=["routed", "local"])
def test_the_balancer_is_a_client(balancer: Balancer, snat: str, vip: str) -> None:
    balancer.apply([service(listen=f"{vip}:80", protocol=["tcp", "udp"], snat=snat)])
    for protocol in ("tcp", "udp"):
        answers = balancer.host.call(traffic.ask, f"{vip}:80", 8, protocol=protocol)
        assert traffic.tally(answers) == dict.fromkeys(NAMES, 2), protocol
        assert {answer.peer for answer in answers} == {BACK}, "an address that every backend can answer to"


@pytest.mark.parametrize("vip", [VIP6, FRONT6], ids=["routed", "local"])
def test_the_balancer_is_a_client_over_ipv6(balancer: Balancer, vip: str) -> None:
    backends = [{"address": address} for address in WEB6.values()]
    balancer.apply([service(listen=f"[{vip}]:80", backends=backends)])
    answers = balancer.host.call(traffic.ask, f"[{vip}]:80", 8)
    assert traffic.tally(answers) == dict.fromkeys(NAMES, 2)


def test_services_keep_their_own_source_nat(balancer: Balancer) -> None:
    balancer.host.ip(f"address add {ANOTHER}/32 dev back")
    kinds = {80: "masquerade", 8080: "none", 53: ANOTHER}
    balancer.apply([service(f"s{port}", listen=f"{VIP}:{port}", snat=snat) for port, snat in kinds.items()])
    seen = {port: {a.peer for a in balancer.ask(f"{VIP}:{port}", 4)} for port in kinds}
    assert seen == {80: {BACK}, 8080: {CLIENT}, 53: {ANOTHER}}


@pytest.mark.parametrize("listen", [f"{VIP}:9000-9003", f"{FRONT}:9000-9003"])
@pytest.mark.parametrize(("snat", "peer"), [("masquerade", BACK), ("none", CLIENT)])
def test_ranges(balancer: Balancer, listen: str, snat: str, peer: str) -> None:
    balancer.apply([service(listen=listen, snat=snat)])
    target = listen.replace("9000-9003", "9002")
    answers = balancer.ask(target, 4)
    assert (traffic.tally(answers), {a.peer for a in answers}) == (dict.fromkeys(NAMES, 1), {peer})


@pytest.mark.parametrize(("snat", "peer"), [("masquerade", BACK), ("none", CLIENT)])
@pytest.mark.parametrize("way_in", [{}, {"interface": "front"}], ids=["any", "front"])
def test_node_ports(balancer: Balancer, snat: str, peer: str, way_in: dict[str, str]) -> None:
    balancer.apply([service(listen="*:30080", snat=snat, **way_in, backends=webs(port=8080))])
    answers = balancer.ask(f"{FRONT}:30080", 4)
    assert (traffic.tally(answers), {a.peer for a in answers}) == (dict.fromkeys(NAMES, 1), {peer})


def test_traffic_of_others_keeps_its_source(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.apply([service()])
    assert balancer.ask(f"{WEB['web1']}:80")[0].peer == CLIENT, "forwarded straight to a backend"
    out = balancer.lab.backends["web1"].call(traffic.ask, f"{CLIENT}:80")
    assert out[0].peer == WEB["web1"]
    own = balancer.host.call(traffic.ask, f"{CLIENT}:80")
    assert own[0].peer == FRONT


def test_masquerade_leaves_other_peoples_dnat_alone(balancer: Balancer) -> None:
    foreign = (
        "table ip other { chain pre { type nat hook prerouting priority -110; tcp dport 7777 dnat to 10.0.0.4:80; }; }"
    )
    balancer.host.run("nft", "-f", "-", stdin=foreign)
    balancer.apply([service()])
    (answer,) = balancer.ask(f"{FRONT}:7777")
    assert (answer.name, answer.peer) == ("web2", CLIENT)


@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit", "throw"])
def test_a_network_that_is_refused_is_not_connected(balancer: Balancer, kind: str) -> None:
    """A router drops what its own networks leave over of a larger one; clients there are seen nonetheless."""
    balancer.lab.client.ip("route replace local 10.9.9.0/24 dev lo")
    balancer.host.ip(f"route replace {kind} 10.0.0.0/8\nroute add 10.9.9.0/24 via {CLIENT}")
    outcome = balancer.apply([service(snat="none", backends=webs("web1")), service("far", listen="10.77.0.1:80")])
    ((_handle, answer),) = balancer.hold(source="10.9.9.9")
    assert answer.peer == "10.9.9.9"
    assert not [warning for warning in outcome.warnings if "10.77.0.1" in warning]
