# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's own source NAT for the networks behind it, and the choice between uplinks."""

from __future__ import annotations

from collections import Counter

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import BACK, CLIENT, CLIENT6, FRONT, FRONT6, INTERNET, NAMES, UPLINKS, VIP, WEB, WEB6

INSIDE, INSIDE6 = "10.0.0.0/24", "2001:db8:2::/64"
PUBLIC = "192.0.2.12"
GATEWAYS = {name: {"interface": link, "gateway": f"{net}.1"} for name, (link, net) in UPLINKS.items()}
SOURCES = {name: f"{net}.2" for name, (_link, net) in UPLINKS.items()}


def out(balancer: Balancer, target: str = f"{CLIENT}:80", count: int = 1, **options: object) -> list[traffic.Answer]:
    """Answers to connections that a backend opens."""
    return list(balancer.lab.backends["web1"].call(traffic.ask, target, count, **options))


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("interface", [None, "front"])
def test_masquerade(balancer: Balancer, protocol: str, interface: str | None) -> None:
    assert out(balancer, timeout_s=0.2)[0].error, "without forwarding there is no way out"
    balancer.apply([], [{"source": INSIDE, **({"out_interface": interface} if interface else {})}])
    assert {answer.peer for answer in out(balancer, count=3, protocol=protocol)} == {FRONT}


def test_masquerade_over_ipv6(balancer: Balancer) -> None:
    balancer.apply([], [{"source": [INSIDE6, INSIDE], "out_interface": "front"}])
    assert out(balancer, f"[{CLIENT6}]:80")[0].peer == FRONT6
    assert out(balancer)[0].peer == FRONT


def test_a_fixed_address(balancer: Balancer) -> None:
    balancer.apply([], [{"source": INSIDE, "out_interface": "front", "snat": PUBLIC}])
    for protocol in ("tcp", "udp"):
        assert {answer.peer for answer in out(balancer, count=3, protocol=protocol)} == {PUBLIC}


def test_another_interface_is_not_meant(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.apply([], [{"source": INSIDE, "out_interface": "back"}])
    assert out(balancer)[0].peer == WEB["web1"]


def test_destination_ports(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    egress = {"source": INSIDE, "protocol": "tcp", "destination_ports": [80, "9000-9002"]}
    balancer.apply([], [{**egress, "snat": PUBLIC}])
    seen = {port: out(balancer, f"{CLIENT}:{port}")[0].peer for port in (80, 9000, 9002, 9003, 8080)}
    inside = WEB["web1"]
    assert seen == {80: PUBLIC, 9000: PUBLIC, 9002: PUBLIC, 9003: inside, 8080: inside}
    assert out(balancer, protocol="udp")[0].peer == inside


def test_the_first_rule_that_fits(balancer: Balancer) -> None:
    ports = {"source": INSIDE, "protocol": "tcp", "destination_ports": 80, "snat": PUBLIC}
    balancer.apply([], [ports, {"source": INSIDE, "snat": "masquerade"}])
    assert out(balancer, f"{CLIENT}:80")[0].peer == PUBLIC
    assert out(balancer, f"{CLIENT}:8080")[0].peer == FRONT


@pytest.mark.parametrize("sources", [INSIDE, [INSIDE, "10.1.0.0/16"], "0.0.0.0/0"], ids=str)
def test_some_destinations(balancer: Balancer, sources: str | list[str]) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    far = ["198.18.7.0/24", "198.18.9.1"]
    balancer.apply([], [{"source": sources, "destination": far, "snat": PUBLIC}])
    seen = {host: out(balancer, f"{host}:80")[0].peer for host in ("198.18.7.7", "198.18.9.1", "198.18.9.2", CLIENT)}
    inside = WEB["web1"]
    assert seen == {"198.18.7.7": PUBLIC, "198.18.9.1": PUBLIC, "198.18.9.2": inside, CLIENT: inside}


@pytest.mark.parametrize("sources", [INSIDE, [INSIDE, "10.1.0.0/16"]], ids=str)
def test_all_but_some(balancer: Balancer, sources: str | list[str]) -> None:
    """The exception is forwarded, too, though natlb has turned forwarding on for what is declared alone."""
    vpn = {"source": sources, "destination": ["198.18.7.0/24", "198.18.9.1"], "snat": "none"}
    balancer.apply([], [vpn, {"source": sources, "out_interface": "front"}])
    seen = {host: out(balancer, f"{host}:80")[0].peer for host in ("198.18.7.7", "198.18.9.1", "198.18.9.2", CLIENT)}
    inside = WEB["web1"]
    assert seen == {"198.18.7.7": inside, "198.18.9.1": inside, "198.18.9.2": FRONT, CLIENT: FRONT}
    assert not balancer.apply([], [vpn, {"source": sources, "out_interface": "front"}]).changed


def test_networks_within_ones_own(balancer: Balancer) -> None:
    """A VPN is often a part of what the sources are."""
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    everything = {"source": ["10.0.0.0/8", "198.18.0.0/16"]}
    vpn = {**everything, "destination": ["198.18.7.0/24", "10.99.0.0/16"]}
    seen = {}
    for name, egress in (("snat", {**vpn, "snat": PUBLIC}), ("none", {**vpn, "snat": "none"})):
        balancer.apply([], [egress, {"source": "0.0.0.0/0", "out_interface": "front"}])
        seen[name] = [out(balancer, f"{host}:80")[0].peer for host in ("198.18.7.7", "198.18.8.8")]
    assert seen == {"snat": [PUBLIC, FRONT], "none": [WEB["web1"], FRONT]}


def test_all_but_some_over_ipv6(balancer: Balancer) -> None:
    both = {"source": [INSIDE, INSIDE6]}
    exception = {**both, "destination": ["198.18.7.0/24", "2001:db8:18::7"], "snat": "none"}
    balancer.apply([], [exception, both])
    web1 = balancer.lab.backends["web1"]
    as_it_is, translated = (web1.call(traffic.ask, f"[2001:db8:18::{host}]:80")[0].peer for host in (7, 8))
    assert as_it_is.startswith("2001:db8:2::")
    assert translated == FRONT6


@pytest.mark.engines("iptables-nft", "iptables-legacy")
def test_destinations_through_a_closed_chain(balancer: Balancer) -> None:
    balancer.host.run(f"iptables-{balancer.variant}", "-w", "10", "-P", "FORWARD", "DROP")
    some = {"source": INSIDE, "destination": "198.18.7.0/24"}
    balancer.apply([], [{**some, "snat": "none", "protocol": "udp"}, some], firewall="accept")
    assert out(balancer, "198.18.7.7:80")[0].peer == FRONT
    assert out(balancer, "198.18.7.7:80", protocol="udp")[0].peer == WEB["web1"]
    assert out(balancer, "198.18.8.8:80", timeout_s=0.3)[0].error


def test_what_is_excepted_takes_no_uplink(balancer: Balancer) -> None:
    """Both providers have the address, and so has the client; the main table leads to the client."""
    balancer.lab.uplinks()
    balancer.client.ip(f"address add {INTERNET}/32 dev lo")
    try:
        balancer.host.ip(f"route add default via {CLIENT}")
        exception = {"source": INSIDE, "destination": INTERNET, "protocol": "tcp", "snat": "none"}
        balancer.apply([], [exception, by_weight(1, 1)])
        assert {answer.who for answer in out(balancer, f"{INTERNET}:80", 4)} == {"client"}
        assert ways(out(balancer, f"{INTERNET}:80", 4, protocol="udp")) == {"isp1": 2, "isp2": 2}
    finally:
        balancer.client.ip(f"address delete {INTERNET}/32 dev lo")


def test_foreign_traffic_is_not_translated(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.apply([], [{"source": "10.0.0.3"}])
    assert balancer.lab.backends["web2"].call(traffic.ask, f"{CLIENT}:80")[0].peer == WEB["web2"], "not its source"
    assert balancer.ask(f"{WEB['web1']}:80")[0].peer == CLIENT, "the way in"
    assert balancer.lab.backends["web1"].call(traffic.ask, f"{WEB['web2']}:80")[0].peer == WEB["web1"]
    assert out(balancer)[0].peer == FRONT


def test_beside_services(balancer: Balancer) -> None:
    balancer.apply([service(snat="none")], [{"source": INSIDE}])
    answers = balancer.ask(count=8)
    assert traffic.tally(answers) == dict.fromkeys(NAMES, 2)
    assert {answer.peer for answer in answers} == {CLIENT}
    assert out(balancer)[0].peer == FRONT
    hairpin = out(balancer, f"{VIP}:80", 4)
    assert traffic.tally(hairpin) == dict.fromkeys(NAMES, 1)
    assert {answer.peer for answer in hairpin} == {BACK}


def ways(answers: list[traffic.Answer]) -> Counter[str]:
    """Which uplink each connection took; each must have that uplink's source address."""
    assert all(answer.peer == SOURCES[answer.name] for answer in answers), answers
    return traffic.tally(answers)


def by_weight(isp1: int, isp2: int) -> Mapping:
    return {"source": INSIDE, "uplinks": [{**GATEWAYS["isp1"], "weight": isp1}, {**GATEWAYS["isp2"], "weight": isp2}]}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_uplinks_by_weight(balancer: Balancer, protocol: str) -> None:
    balancer.lab.uplinks()
    balancer.apply([], [by_weight(2, 1)])
    assert ways(out(balancer, f"{INTERNET}:80", 30, protocol=protocol)) == {"isp1": 20, "isp2": 10}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_an_uplink_is_kept_for_the_connection(balancer: Balancer, protocol: str) -> None:
    balancer.lab.uplinks()
    balancer.apply([], [by_weight(1, 1)])
    web1 = balancer.lab.backends["web1"]
    held = web1.call(traffic.hold, f"{INTERNET}:80", 6, protocol=protocol)
    assert traffic.tally(answer for _handle, answer in held) == {"isp1": 3, "isp2": 3}
    for _unused in range(3):
        for handle, before in held:
            assert web1.call(traffic.talk, handle)[:3] == before[:3]


def test_uplinks_by_port(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    mail = {"source": INSIDE, "protocol": "tcp", "destination_ports": [80, 53], "uplinks": [GATEWAYS["isp1"]]}
    balancer.apply([], [mail, {"source": INSIDE, "uplinks": [GATEWAYS["isp2"]]}])
    assert ways(out(balancer, f"{INTERNET}:80", 4)) == {"isp1": 4}
    assert ways(out(balancer, f"{INTERNET}:53", 4)) == {"isp1": 4}
    assert ways(out(balancer, f"{INTERNET}:8080", 4)) == {"isp2": 4}
    assert ways(out(balancer, f"{INTERNET}:80", 4, protocol="udp")) == {"isp2": 4}


def test_uplinks_do_not_lead_inside_traffic_out(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    balancer.apply([service()], [by_weight(1, 1)])
    assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)
    assert traffic.tally(out(balancer, f"{VIP}:80", 8)) == dict.fromkeys(NAMES, 2), "a backend as a client"
    assert traffic.tally(out(balancer, f"{WEB['web2']}:80", 4)) == {"web2": 4}
    assert traffic.tally(out(balancer, f"{BACK}:80", 2)) == {"ConnectionRefusedError": 2}, "the balancer itself"


def test_answers_of_services_do_not_take_an_uplink(balancer: Balancer) -> None:
    """With `snat: none` the backends answer from inside networks, but those connections came in by the front."""
    balancer.lab.uplinks()
    balancer.apply([service(snat="none", protocol=["tcp", "udp"])], [by_weight(1, 1)])
    for protocol in ("tcp", "udp"):
        assert balancer.tally(count=8, protocol=protocol) == dict.fromkeys(NAMES, 2)


def test_marks_of_others_are_left_alone(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    chain = "type filter hook prerouting priority -160; ip saddr 10.0.0.0/24 meta mark set 0x1234"
    rules = f"table ip other {{ chain pre {{ {chain}; }}; chain post {{ {SEEN}; }}; }}"
    balancer.host.run("nft", "-f", "-", stdin=rules)
    balancer.apply([], [by_weight(1, 1)])
    assert len(ways(out(balancer, f"{INTERNET}:80", 4))) == 2
    shown = balancer.host.run("nft", "list", "table", "ip", "other")
    assert "packets 0" not in shown.split("chain post")[1], "the foreign bits are still in the mark"


SEEN = 'type filter hook postrouting priority 150; oifname "up*" meta mark & 0xffff == 0x1234 counter'


def test_a_strict_reverse_path_filter(balancer: Balancer) -> None:
    """The mark has to count in it, whoever looks after forwarding."""
    balancer.lab.uplinks()
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.host.sysctl({f"ipv4/conf/{link}/rp_filter": 1 for link, _net in UPLINKS.values()})
    outcome = balancer.apply([], [by_weight(1, 1)], forwarding=False)
    assert {name for name in outcome.sysctls if "conf" in name} == {
        f"net/ipv4/conf/{link}/src_valid_mark" for link, _net in UPLINKS.values()
    }
    assert ways(out(balancer, f"{INTERNET}:80", 4)) == {"isp1": 2, "isp2": 2}


def test_everything_is_undone(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    before = balancer.snapshot()
    declared = [by_weight(2, 1), {"source": INSIDE6}]
    assert balancer.apply([], declared).changed
    assert not balancer.apply([], declared).changed
    assert balancer.snapshot() != before
    balancer.remove()
    assert balancer.ours_left() == []
    after = balancer.snapshot()
    for part in ("rules-4", "rules-6", "routes-4", "routes-6"):
        assert after[part] == before[part]


def test_a_lost_route_or_rule_is_put_back(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    balancer.apply([], [by_weight(2, 1)])
    good = balancer.snapshot()
    own = [line for line in good["rules-4"].splitlines() if "fwmark" in line]
    assert len(own) == 3, "one for the networks inside and one per uplink"
    balancer.host.ip(f"rule delete priority {own[1].split(':')[0]}")
    outcome = balancer.apply([], [by_weight(2, 1)])
    assert outcome.changed
    assert outcome.diff
    assert balancer.snapshot()["rules-4"] == good["rules-4"]
    table = own[2].split("lookup")[1].split()[0]
    balancer.host.ip(f"route flush table {table}")
    outcome = balancer.apply([], [by_weight(2, 1)])
    assert outcome.changed
    assert outcome.diff
    assert balancer.snapshot()["routes-4"] == good["routes-4"]
    assert ways(out(balancer, f"{INTERNET}:80", 6)) == {"isp1": 4, "isp2": 2}


SHADOW_PORT = 40500


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("snat", ["masquerade", FRONT])
def test_a_host_inside_cannot_take_the_place_of_a_service(balancer: Balancer, protocol: str, snat: str) -> None:
    """It would open a connection from the port of a service to a client, and so be who answers what that client sends
    to the service from there (port shadowing: test_port_shadow of the kernel's own nft_nat.sh)."""
    ours = service(listen=[f"{FRONT}:80", "*:8080"], protocol=protocol, backends=webs("web2", port=80))
    balancer.apply([ours], [{"source": INSIDE, "snat": snat}])
    for port in (80, 8080):
        shadow = {"protocol": protocol, "timeout_s": 0.2, "first_source_port": port}
        (attack,) = balancer.lab.backends["web3"].call(traffic.ask, f"{CLIENT}:{SHADOW_PORT}", **shadow)
        assert attack.error
        asked = {"protocol": protocol, "first_source_port": SHADOW_PORT}
        assert balancer.tally(f"{FRONT}:{port}", **asked) == {"web2": 1}


@pytest.mark.parametrize("keys", [{"out_interface": "front"}, {"snat": FRONT6}, {"destination": "2001:db8:1::/64"}])
def test_nor_over_ipv6(balancer: Balancer, keys: dict[str, str]) -> None:
    ours = service(listen=f"[{FRONT6}]:80", protocol=["tcp", "udp"], backends=[{"address": WEB6["web2"]}])
    egress = [{"source": INSIDE6, **keys}]
    balancer.apply([ours], egress)
    assert not balancer.apply([ours], egress).changed
    for protocol in ("tcp", "udp"):
        shadow = {"protocol": protocol, "timeout_s": 0.2, "first_source_port": 80}
        (attack,) = balancer.lab.backends["web3"].call(traffic.ask, f"[{CLIENT6}]:{SHADOW_PORT}", **shadow)
        assert attack.error
        asked = {"protocol": protocol, "first_source_port": SHADOW_PORT}
        assert balancer.tally(f"[{FRONT6}]:80", **asked) == {"web2": 1}


def test_other_source_ports_are_kept(balancer: Balancer) -> None:
    declared = [service(listen=[f"{FRONT}:{port}" for port in range(9000, 9040, 4)], protocol=["tcp", "udp"])]
    mail = {"source": INSIDE, "protocol": "udp", "destination_ports": [80, 8080]}
    balancer.apply(declared, [mail, {"source": INSIDE}])
    for protocol in ("tcp", "udp"):
        for port, kept in ((9000, False), (9036, False), (8999, True), (9037, True)):
            (answer,) = out(balancer, protocol=protocol, first_source_port=port)
            assert (answer.peer_port == port) == kept, (protocol, port, answer)


PORTS = range(20000, 30000)


@pytest.mark.parametrize("snat", ["masquerade", PUBLIC, "uplinks"])
def test_source_ports_of_a_range(balancer: Balancer, snat: str) -> None:
    rule: Mapping = {"source": INSIDE, "snat": snat, "snat_ports": "20000-29999"}
    target, seen = f"{CLIENT}:80", {FRONT if snat == "masquerade" else snat}
    if snat == "uplinks":
        balancer.lab.uplinks()
        rule = {**by_weight(1, 1), "snat_ports": "20000-29999"}
        target, seen = f"{INTERNET}:80", set(SOURCES.values())
    declared = [service(listen=f"{FRONT}:8500", protocol=["tcp", "udp"])]
    balancer.apply(declared, [rule])
    for protocol in ("tcp", "udp"):
        # Of these, one is the port of a service.
        answers = out(balancer, target, 40, protocol=protocol, first_source_port=8490)
        assert {answer.peer for answer in answers} == seen
        assert all(answer.peer_port in PORTS for answer in answers), [answer.peer_port for answer in answers]
        (kept,) = out(balancer, target, protocol=protocol, first_source_port=25000)
        assert kept.peer_port == 25000, "it is of the range, and free"
    assert not balancer.apply(declared, [rule]).changed
    assert not balancer.info()["drift"]
    (egress,) = balancer.info()["egress"]
    assert egress["snat_ports"] == "20000-29999"
    balancer.apply(declared, [{key: value for key, value in rule.items() if key != "snat_ports"}])
    assert all(out(balancer, target, 1, first_source_port=port)[0].peer_port == port for port in (8490, 8501))
    balancer.remove()
    assert not balancer.ours_left()


def test_source_ports_of_a_range_over_ipv6(balancer: Balancer) -> None:
    for number, snat in enumerate(("masquerade", FRONT6)):
        balancer.apply([], [{"source": INSIDE6, "snat": snat, "snat_ports": "20000-29999"}])
        for protocol in ("tcp", "udp"):
            first = 8500 + 100 * number
            answers = out(balancer, f"[{CLIENT6}]:80", 20, protocol=protocol, first_source_port=first)
            assert {answer.peer for answer in answers} == {FRONT6}
            assert all(answer.peer_port in PORTS for answer in answers), [answer.peer_port for answer in answers]


def test_source_ports_of_what_a_rule_names(balancer: Balancer) -> None:
    web = {"source": INSIDE, "protocol": "tcp", "destination_ports": [80, 9000], "snat": PUBLIC, "snat_ports": "20000"}
    udp = {"source": INSIDE, "protocol": "udp", "snat_ports": "30000-30009"}
    balancer.apply([], [web, udp, {"source": INSIDE}])

    def seen(port: int, protocol: str) -> tuple[str, int]:
        (answer,) = out(balancer, f"{CLIENT}:{port}", protocol=protocol, first_source_port=7777)
        return answer.peer, answer.peer_port

    assert seen(80, "tcp") == (PUBLIC, 20000)
    assert seen(9000, "tcp") == (PUBLIC, 20000), "one port is enough for each destination"
    assert seen(8080, "tcp") == (FRONT, 7777)
    peer, port = seen(80, "udp")
    assert (peer, port in range(30000, 30010)) == (FRONT, True)


def test_as_many_connections_to_one_destination_as_ports(balancer: Balancer) -> None:
    balancer.apply([], [{"source": INSIDE, "snat_ports": "20000-20003"}])
    web1 = balancer.lab.backends["web1"]
    held = web1.call(traffic.hold, f"{CLIENT}:80", 4)
    assert {answer.peer_port for _handle, answer in held} == {20000, 20001, 20002, 20003}
    (more,) = out(balancer, timeout_s=0.3)
    assert more.error
    assert out(balancer, f"{CLIENT}:8080")[0].peer_port in range(20000, 20004), "another destination"
    assert [web1.call(traffic.talk, handle).peer for handle, _answer in held] == [FRONT] * 4


def test_what_has_no_ports_is_translated_as_well(balancer: Balancer) -> None:
    """An echo request (ICMP), which the client answers if it comes from an address that it knows."""
    balancer.apply([], [{"source": INSIDE, "snat": PUBLIC, "snat_ports": "20000-29999"}])
    balancer.client.ip(f"route add unreachable {INSIDE}")
    try:
        assert balancer.lab.backends["web1"].call(traffic.ping, CLIENT) == "answered"
    finally:
        balancer.client.ip(f"route delete unreachable {INSIDE}")
