# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a service listens on: addresses, ranges, every local address, an interface, and all protocols."""

from __future__ import annotations

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
