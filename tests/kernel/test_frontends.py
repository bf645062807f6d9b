# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service listens on: addresses, ranges, every local address, an interface, and all protocols."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from kernel_lab import sctp, server, traffic
from kernel_lab.balancer import Balancer, service, webs, weighted
from kernel_lab.topology import BACK, FRONT, FRONT6, OTHER_VIP, VIP, VIP6, WEB, WEB6

FAR_VIP = "203.0.113.7"


def test_several_addresses_and_ports(balancer: Balancer) -> None:
    listens = [f"{VIP}:80", f"{VIP}:8080", f"{OTHER_VIP}:80"]
    balancer.apply([service(listen=listens, backends=webs("web1", "web2", port=9000))])
    for target in listens:
        answers = balancer.ask(target, 4)
        assert traffic.tally(answers) == {"web1": 2, "web2": 2}
        assert {answer.local_port for answer in answers} == {9000}
    assert "web" not in "".join(balancer.tally(f"{OTHER_VIP}:8080", timeout_s=0.3)), "nobody declared that one"


def test_the_listen_port_is_the_default(balancer: Balancer) -> None:
    balancer.apply([service(listen=[f"{VIP}:80", f"{VIP}:8080"], backends=webs("web1"))])
    assert {balancer.ask(f"{VIP}:{port}")[0].local_port for port in (80, 8080)} == {80, 8080}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_range_keeps_the_port(balancer: Balancer, protocol: str) -> None:
    balancer.apply([service(listen=f"{VIP}:9000-9003", protocol=protocol, backends=webs("web1", "web2"))])
    answers = [balancer.ask(f"{VIP}:{port}", 2, protocol=protocol) for port in range(9000, 9004)]
    for port, pair in enumerate(answers, 9000):
        assert {answer.local_port for answer in pair} == {port}
        assert traffic.tally(pair) == {"web1": 1, "web2": 1}
    assert "web" not in "".join(balancer.tally(f"{VIP}:8080", timeout_s=0.3, protocol=protocol))


def test_a_range_to_one_port(balancer: Balancer) -> None:
    balancer.apply([service(listen=f"{VIP}:9100-9900", backends=weighted(web1=2, web2=1))])
    balancer.apply([service(listen=f"{VIP}:9100-9900", backends=webs("web1", "web2", port=80))])
    for port in (9100, 9500, 9900):
        answers = balancer.ask(f"{VIP}:{port}", 2)
        assert traffic.tally(answers) == {"web1": 1, "web2": 1}
        assert {answer.local_port for answer in answers} == {80}


SHIFTED = {"range": "9000-9003", "distance": "+2000"}


@pytest.mark.parametrize("port", SHIFTED.values(), ids=SHIFTED)
@pytest.mark.parametrize("keys", [{}, {"snat": "none"}, {"affinity": 60, "method": "source_hash"}], ids=str)
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_a_range_to_another_one(balancer: Balancer, family: str, keys: dict[str, Any], port: str) -> None:
    address, homes = (VIP, WEB) if family == "ip" else (f"[{VIP6}]", WEB6)
    backends = [{"name": name, "address": homes[name], "port": port} for name in ("web1", "web2")]
    declared = service(listen=f"{address}:7000-7003", protocol=["tcp", "udp"], backends=backends, **keys)
    balancer.apply([declared])
    asked = {"web1": 0, "web2": 0}
    for protocol in ("tcp", "udp"):
        for number in range(4):
            for answer in balancer.ask(f"{address}:{7000 + number}", 4, protocol=protocol):
                assert answer.local_port == 9000 + number
                asked[answer.name] += 1
    info = balancer.info()
    assert {item["name"]: item["new_connections"] for item in info["services"][0]["backends"]} == asked
    assert [(item["port"], item["shift"]) for item in info["services"][0]["backends"]] == [(None, 2000)] * 2
    assert not info["drift"]
    assert balancer.apply([declared]).changed is False


def test_several_ranges_to_others(balancer: Balancer) -> None:
    listens = [f"{VIP}:7000-7001", f"{OTHER_VIP}:7002", f"{OTHER_VIP}:7003"]
    backends = [*webs("web1", port="+2000"), *webs("web2", port=80), *webs("web3", port="+2000", state="drained")]
    for keys in ({}, {"method": "random"}, {"method": "flow_hash"}):
        balancer.apply([service(listen=listens, backends=backends, **keys)])
        for at in (f"{VIP}:7000", f"{VIP}:7001", f"{OTHER_VIP}:7002", f"{OTHER_VIP}:7003"):
            seen = {answer.local_port for answer in balancer.ask(at, 24)}
            assert seen == {80, int(at[-4:]) + 2000}, at
    exact = [f"{VIP}:7001", f"{OTHER_VIP}:7002"]
    balancer.apply([service(listen=exact, backends=backends)])
    assert {answer.local_port for at in exact for answer in balancer.ask(at, 2)} == {80, 9001, 9002}
    counted = {item["name"]: item["new_connections"] for item in balancer.info()["services"][0]["backends"]}
    assert counted == {"web1": 2, "web2": 2, "web3": 0}


def test_another_distance_is_a_small_change(balancer: Balancer) -> None:
    for port, first in (("-100", 9000), ("9001-9002", 9001), ("-100", 9000)):
        outcome = balancer.apply([service(listen=[f"{VIP}:9100-9101"], backends=webs("web1", port=port))])
        assert [balancer.ask(f"{VIP}:{9100 + i}")[0].local_port for i in range(2)] == [first, first + 1]
    assert outcome.transaction == "delta"
    balancer.remove()
    assert not balancer.ours_left()


@pytest.mark.parametrize("snat", ["none", "masquerade"])
def test_one_port_of_a_client_to_two_frontends_that_lead_to_one(balancer: Balancer, snat: str) -> None:
    """What iptables cannot do right has a warning."""
    listen = [f"{VIP}:7000-7003", f"{OTHER_VIP}:7000-7003"]
    outcome = balancer.apply([service(listen=listen, snat=snat, backends=webs("web1", port="+2000"))])
    answers = [balancer.ask(f"{address}:7001", 1, first_source_port=30700)[0] for address in (VIP, OTHER_VIP)]
    warned = [text for text in outcome.warnings if "another port of a backend" in text]
    right = balancer.nftables or snat == "masquerade"
    assert [answer.local_port for answer in answers] == [9001, 9001 if right else 9002]
    assert len(warned) == (0 if right else 1)


def test_a_backend_with_shifted_ports_is_drained(balancer: Balancer) -> None:
    declared = service(listen=f"{VIP}:7000-7003", backends=webs("web1", "web2", port="+2000"))
    balancer.apply([declared])
    balancer.backend("web1", "drained")
    assert balancer.tally(f"{VIP}:7002", 4) == {"web2": 4}
    outcome = balancer.apply([{**declared, "log": True}])
    assert balancer.tally(f"{VIP}:7002", 4) == {"web2": 4}
    assert "web1" not in outcome.diff.partition("---")[0], "its state is what it was"
    balancer.backend("web1", "active")
    assert balancer.tally(f"{VIP}:7002", 4) == {"web1": 2, "web2": 2}


def test_shifted_ports_of_every_address_and_an_interface(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    backends = webs("web1", "web2", port="9002-9003")
    balancer.apply(
        [
            service("node", listen="*:7000-7001", backends=webs("web1", "web2", port="+2000"), redispatch=True),
            service("front", listen=f"{VIP}:7002-7003", interface="front", backends=backends, redispatch=True),
        ]
    )
    for at, port in ((f"{FRONT}:7001", 9001), (f"{VIP}:7003", 9003)):
        answers = balancer.ask(at, 4)
        assert traffic.tally(answers) == {"web1": 2, "web2": 2}
        assert {answer.local_port for answer in answers} == {port}
        assert {answer.peer for answer in answers} == {BACK}, "the source of what comes from them is translated"


def test_backends_at_one_address_with_a_port_in_common(balancer: Balancer) -> None:
    """One has its own, which the other has as well for one that clients ask for."""
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    two = [{"name": f"of {port}", "address": WEB["web1"], "port": port} for port in ("+1000", 9002)]
    balancer.apply([service(listen="*:8000-8003", backends=two)])
    answers = balancer.ask(f"{FRONT}:8001", 4)
    assert Counter(answer.local_port for answer in answers) == {9001: 2, 9002: 2}
    assert {answer.peer for answer in answers} == {BACK}


def test_services_with_ports_and_backends_in_common(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    front = service("front", listen="*:9000-9003", interface="front", backends=webs("web1", "web2"), redispatch=True)
    others = webs("web1", "web2", port=9002)
    balancer.apply([front, service("other", listen="*:9000-9003", backends=others, redispatch=True)])
    assert Counter((a.name, a.local_port) for a in balancer.ask(f"{FRONT}:9001", 4)) == {
        ("web1", 9001): 2,
        ("web2", 9001): 2,
    }


def test_udp_flows_begin_anew_where_ports_are_shifted_otherwise(balancer: Balancer) -> None:
    """A flow that keeps its socket keeps its backend, as long as it is at the declared port of that."""
    listen = f"{VIP}:7000-7001"
    declared = service(listen=listen, protocol="udp", backends=webs("web1", port="+2000"))
    balancer.apply([declared])
    ((handle, answer),) = balancer.hold(f"{VIP}:7001", protocol="udp")
    assert (answer.name, answer.local_port) == ("web1", 9001)
    other = webs("web2", port="+2000")
    balancer.apply([{**declared, "backends": [*webs("web1", port="9000-9001", state="drained"), *other]}])
    answer = balancer.talk(handle)
    assert (answer.name, answer.local_port) == ("web1", 9001)
    balancer.apply([{**declared, "backends": [*webs("web1", port="+2001", state="drained"), *other]}])
    answer = balancer.talk(handle)
    assert (answer.name, answer.local_port) == ("web2", 9001)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_every_local_address(balancer: Balancer, protocol: str) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.host.ip(f"address add {VIP}/32 dev front")
    backends = [*webs("web1", port=80), {"address": WEB6["web2"], "port": 80}]
    balancer.apply([service(listen="*:30080", protocol=protocol, backends=backends)])
    for address in (FRONT, VIP, BACK):
        assert balancer.tally(f"{address}:30080", 2, protocol=protocol) == {"web1": 2}
    assert balancer.tally(f"[{FRONT6}]:30080", 2, protocol=protocol) == {"web2": 2}
    elsewhere = balancer.tally(f"{WEB['web3']}:30080", protocol=protocol)
    assert elsewhere == {"ConnectionRefusedError": 1}, "forwarded packets to that port are none of ours"


LINK_LOCAL = "fe80::ff:fe00:2"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    "keys", [{}, {"interface": "front"}, {"allow_from": "2001:db8:18::/64"}, {"backends": []}], ids=str
)
def test_link_local_addresses_are_the_hosts_own(balancer: Balancer, protocol: str, keys: dict[str, Any]) -> None:
    """What comes to one may not be forwarded, so a server of the host's own goes on."""
    balancer.host.call(server.start, "balancer", [30080])
    backends = [{"address": WEB6["web1"], "port": 80}]
    balancer.apply([service(**{"listen": "*:30080", "protocol": protocol, "backends": backends, **keys})])
    assert balancer.tally(f"[{LINK_LOCAL}%front]:30080", 2, protocol=protocol) == {"balancer": 2}
    if not keys:
        assert balancer.tally(f"[{FRONT6}]:30080", 2, protocol=protocol) == {"web1": 2}


@pytest.mark.parametrize("snat", ["masquerade", "none"])
def test_link_local_addresses_of_ipv4_are_served(balancer: Balancer, snat: str) -> None:
    """The kernel forwards for them as for any other."""
    balancer.host.ip("address add 169.254.7.1/24 dev front")
    balancer.apply([service(listen="*:30080", snat=snat, backends=webs("web1", port=80))])
    balancer.client.ip("address add 169.254.7.2/24 dev front")
    try:
        assert balancer.tally("169.254.7.1:30080", 2) == {"web1": 2}
    finally:
        balancer.client.ip("address delete 169.254.7.2/24 dev front")


def test_a_node_port_and_an_address_side_by_side(balancer: Balancer) -> None:
    balancer.apply([service(backends=webs("web1")), service("node", listen="*:8080", backends=webs("web2"))])
    assert balancer.tally(f"{VIP}:80") == {"web1": 1}
    assert balancer.tally(f"{FRONT}:8080") == {"web2": 1}


@pytest.mark.parametrize("vip", [VIP, FAR_VIP])
def test_an_address_that_no_interface_has(balancer: Balancer, vip: str) -> None:
    assert vip not in balancer.host.run("ip", "address")
    balancer.apply([service(listen=f"{vip}:80")])
    assert sum(balancer.tally(f"{vip}:80", 4).values()) == 4


@pytest.mark.parametrize("vip", [VIP, FRONT])
def test_an_address_of_the_balancer(balancer: Balancer, vip: str) -> None:
    balancer.host.ip(f"address replace {vip}/32 dev front")
    balancer.apply([service(listen=f"{vip}:80", protocol=["tcp", "udp"], backends=webs("web1"))])
    assert balancer.tally(f"{vip}:80", 2) == {"web1": 2}
    assert balancer.tally(f"{vip}:80", 2, protocol="udp") == {"web1": 2}


def test_both_protocols_have_the_same_backends(balancer: Balancer) -> None:
    balancer.apply([service(listen=f"{VIP}:53", protocol=["tcp", "udp"], backends=webs("web1", "web3"))])
    for protocol in ("tcp", "udp"):
        assert balancer.tally(f"{VIP}:53", 4, protocol=protocol) == {"web1": 2, "web3": 2}


def test_protocols_are_apart(balancer: Balancer) -> None:
    balancer.apply(
        [
            service("t", listen=f"{VIP}:53", protocol="tcp", backends=webs("web1")),
            service("u", listen=f"{VIP}:53", protocol="udp", backends=webs("web2")),
        ]
    )
    assert balancer.tally(f"{VIP}:53", 2) == {"web1": 2}
    assert balancer.tally(f"{VIP}:53", 2, protocol="udp") == {"web2": 2}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_ipv6(balancer: Balancer, protocol: str) -> None:
    backends = [{"address": WEB6["web1"], "port": 8080}, {"address": WEB6["web2"], "port": 8080}]
    balancer.apply([service(listen=f"[{VIP6}]:80", protocol=protocol, backends=backends)])
    answers = balancer.ask(f"[{VIP6}]:80", 4, protocol=protocol)
    assert traffic.tally(answers) == {"web1": 2, "web2": 2}
    assert {answer.local_port for answer in answers} == {8080}


def test_only_what_comes_in_by_the_interface(balancer: Balancer) -> None:
    balancer.apply([service(interface="front", backends=webs("web1"))])
    assert balancer.tally(count=2) == {"web1": 2}
    inside = balancer.lab.backends["web2"].call(traffic.ask, f"{VIP}:80", timeout_s=0.3)
    assert not inside[0].name, "the backends come in by the other one"


def test_the_same_frontend_on_two_interfaces(balancer: Balancer) -> None:
    balancer.apply(
        [
            service("outside", interface="front", backends=webs("web1")),
            service("inside", interface="back", backends=webs("web3")),
        ]
    )
    assert balancer.tally(count=2) == {"web1": 2}
    inside = balancer.lab.backends["web2"].call(traffic.ask, f"{VIP}:80", 2)
    assert traffic.tally(inside) == {"web3": 2}


@pytest.mark.parametrize("listen", ["*:30080", f"{FRONT}:9000-9003"])
def test_interface_with_a_range_or_every_address(balancer: Balancer, listen: str) -> None:
    balancer.apply([service(listen=listen, interface="front", backends=webs("web1", port=80))])
    port = listen.rpartition(":")[2].partition("-")[0]
    assert balancer.tally(f"{FRONT}:{port}", 2) == {"web1": 2}
    inside = balancer.lab.backends["web2"].call(traffic.ask, f"{FRONT}:{port}", timeout_s=0.3)
    assert not inside[0].name


def test_a_port_of_the_balancer_itself(balancer: Balancer) -> None:
    balancer.host.call(server.start, "balancer", [8080])
    balancer.apply([service(listen=f"{FRONT}:80", snat="none", backends=[{"address": FRONT, "port": 8080}])])
    (answer,) = balancer.ask(f"{FRONT}:80")
    assert (answer.name, answer.local, answer.local_port) == ("balancer", FRONT, 8080)
    assert answer.peer == "192.0.2.100"


def test_sctp_arrives_translated(balancer: Balancer) -> None:
    balancer.apply([service(listen=f"{VIP}:3868", protocol="sctp", backends=webs("web1", port=3869))])
    web1 = balancer.lab.backends["web1"]
    web1.call(sctp.listen)
    balancer.client.call(sctp.send, f"{VIP}:3868", 40000)
    seen = web1.call(sctp.received)
    web1.call(sctp.close)
    assert seen is not None
    assert (seen.source, seen.destination, seen.destination_port) == (BACK, WEB["web1"], 3869)
    assert seen.checksum_right
