# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab itself: what it reports must be true before anything is concluded from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel_lab import sctp, statistics, traffic
from kernel_lab.balancer import Balancer
from kernel_lab.peers import Case, Flow, among, check, refused, same, served, silent
from kernel_lab.topology import BACK, CLIENT, INTERNET, VIP, WEB, WEB6, Lab

RULES = f"""
table ip hand {{
  chain pre {{
    type nat hook prerouting priority -100;
    ip daddr {VIP} dnat ip to numgen inc mod 2 map {{ 0 : {WEB["web1"]}, 1 : {WEB["web2"]} }}
  }}
  chain post {{
    type nat hook postrouting priority 100;
    ct status dnat masquerade
  }}
}}
"""


def test_forwarding_is_off_until_it_is_turned_on(lab: Lab) -> None:
    assert traffic.tally(lab.client.call(traffic.ask, f"{WEB['web1']}:80", timeout_s=0.2)) == {"TimeoutError": 1}
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    (answer,) = lab.client.call(traffic.ask, f"{WEB['web1']}:80")
    assert answer[:5] == ("web1", CLIENT, answer.peer_port, WEB["web1"], 80)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_hosts_say_who_they_are(lab: Lab, protocol: str) -> None:
    lab.balancer.sysctl({"ipv4/ip_forward": 1, "ipv6/conf/all/forwarding": 1})
    for web in (WEB, WEB6):
        for name, address in web.items():
            target = f"[{address}]:8080" if ":" in address else f"{address}:8080"
            source = "2001:db8:18::1:7" if ":" in address else "198.18.3.7"
            (answer,) = lab.client.call(traffic.ask, target, protocol=protocol, sources=[source])
            assert answer[:5] == (name, source, answer.peer_port, address, 8080)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_no_connection_comes_from_the_port_of_another(lab: Lab, protocol: str) -> None:
    """A UDP flow that does is no new one for connection tracking."""
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    answers = [
        answer
        for _unused in range(20)
        for answer in lab.client.call(traffic.ask, f"{WEB['web1']}:80", 20, protocol=protocol)
    ]
    assert traffic.tally(answers) == {"web1": 400}
    assert len({answer.peer_port for answer in answers}) == 400


def test_hand_written_rules_are_seen_at_both_ends(lab: Lab) -> None:
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    lab.balancer.run("nft", "-f", "-", stdin=RULES)
    answers = lab.client.call(traffic.ask, f"{VIP}:80", 10)
    assert traffic.tally(answers) == {"web1": 5, "web2": 5}
    assert {answer.peer for answer in answers} == {BACK}
    ((handle, first),) = lab.client.call(traffic.hold, f"{VIP}:80")
    lab.balancer.run("nft", "delete", "table", "ip", "hand")
    assert first.name in ("web1", "web2")
    assert lab.client.call(traffic.talk, handle, 0.3).error, "without its rules nobody keeps the connection"


def test_a_closed_port_and_a_reset_lab(lab: Lab) -> None:
    assert lab.balancer.run("nft", "list", "ruleset") == ""
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    assert traffic.tally(lab.client.call(traffic.ask, f"{WEB['web1']}:81")) == {"ConnectionRefusedError": 1}


def test_a_reset_lab_has_forgotten_the_connections_that_were_held(lab: Lab) -> None:
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    lab.client.call(traffic.hold, f"{WEB['web1']}:80", source="198.18.3.7", source_port=40000)
    # The other end will not hear of it.
    lab.balancer.sysctl({"ipv4/ip_forward": 0})
    shown = ("ss", "--no-header", "--tcp", "--numeric", "state", "connected")
    hosts = (lab.client, lab.backends["web1"])
    assert all(":40000" in host.run(*shown) for host in hosts)
    lab.reset()
    assert not any(":40000" in host.run(*shown) for host in hosts)


def test_a_silenced_lab_repeats_nothing_of_what_was_before(lab: Lab) -> None:
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    lab.client.call(traffic.hold, f"{WEB['web1']}:80", source="198.18.3.8")
    # The client ends it, and the end of the backend never arrives.
    lab.balancer.ip("route add blackhole 198.18.3.8")
    lab.client.call(traffic.release)
    shown = ("ss", "--no-header", "--tcp", "state", "connected", "dst", "198.18.3.8")
    assert lab.backends["web1"].run(*shown)
    lab.silence()
    assert lab.backends["web1"].run(*shown) == ""


def test_what_one_balancer_said_about_ways_is_not_believed_of_the_next(lab: Lab) -> None:
    """Without rules a router sends packets for an address of the same network back, with an ICMP redirect: ask there
    yourself. Who believes it loses that address for 300 s (RT_GC_TIMEOUT in net/ipv4/route.c)."""
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    # It is believed where the address has answered as a neighbour, as on a balancer that has it on an interface.
    lab.client.ip(f"neighbour replace {VIP} lladdr 02:00:00:00:00:02 dev front nud reachable")
    lab.client.call(traffic.ask, f"{VIP}:53", protocol="udp", timeout_s=0.2)
    lab.client.ip(f"neighbour delete {VIP} dev front")
    lab.reset()
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    lab.balancer.run("nft", "-f", "-", stdin=RULES)
    assert traffic.tally(lab.client.call(traffic.ask, f"{VIP}:80", 4)) == {"web1": 2, "web2": 2}


def test_uplinks_lead_to_different_hosts(lab: Lab) -> None:
    assert set(lab.uplinks()) == {"isp1", "isp2"}
    for name, link, gateway in (("isp1", "up1", "100.64.1.1"), ("isp2", "up2.100", "100.64.2.1")):
        lab.balancer.ip(f"route replace {INTERNET} via {gateway} dev {link}")
        assert traffic.tally(lab.balancer.call(traffic.ask, f"{INTERNET}:80")) == {name: 1}


def test_sctp_packets_arrive_as_they_were_sent(lab: Lab) -> None:
    lab.balancer.sysctl({"ipv4/ip_forward": 1})
    web1 = lab.backends["web1"]
    web1.call(sctp.listen)
    lab.client.call(sctp.send, f"{WEB['web1']}:3868", 40000)
    assert web1.call(sctp.received) == (CLIENT, WEB["web1"], 40000, 3868, True)
    web1.call(sctp.close)


@pytest.mark.engines("nftables")
def test_the_files_of_a_balancer_cannot_be_executed(balancer: Balancer, tmp_path: Path) -> None:
    """As below /run on a real host; what is written there can be read by a shell only."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    assert balancer.host.run("sh", str(script)) == "here\n"
    with pytest.raises(PermissionError):
        balancer.host.run(str(script))


def test_crc32c() -> None:
    # The check value of CRC-32/ISCSI in the RevEng catalogue.
    assert sctp.crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    ("seen", "weights", "expected"),
    [
        # R: chisq.test(c(30, 20, 10), p = c(1, 1, 1) / 3) and so on.
        ({"a": 30, "b": 20, "c": 10}, {"a": 1, "b": 1, "c": 1}, 0.006737947),
        ({"a": 5, "b": 5}, {"a": 1, "b": 1}, 1.0),
        ({"a": 60, "b": 40}, {"a": 1, "b": 1}, 0.04550026),
        ({"a": 1000}, {"a": 1, "b": 1}, 0.0),
        ({"a": 10, "z": 1}, {"a": 1}, 0.0),
    ],
)
def test_chi_square(seen: dict[str, int], weights: dict[str, float], expected: float) -> None:
    assert statistics.p_value(seen, weights) == pytest.approx(expected, abs=1e-8)


WRONG_FLOWS = {
    "another backend": served("VIP:80", web2=2),
    "another share": served("VIP:80", web1=1, web2=1),
    "another source address": served("VIP:80", web1=2, seen=CLIENT),
    "another port": served("VIP:80", web1=2, port=8080),
    "another port of one backend": served("VIP:80", web1=2, port={"web1": 8080}),
    "refused": refused("VIP:80"),
    "no answer": silent("VIP:80"),
    "one backend": same("VIP2:80", 2),
    "all of some": among("VIP:80", 2, "web1", "web2"),
    "an answer where it is refused": served("VIP:81", web1=1),
}


@pytest.mark.engines("nftables")
def test_a_table_of_a_peer_names_each_flow_that_goes_wrong(balancer: Balancer) -> None:
    right: list[Flow] = [served("VIP:80", web1=2, seen=BACK, port=80), same("VIP:80", 2), refused("VIP:81")]
    services = [{"listen": "VIP:80", "backends": ["WEB1"]}, {"listen": "VIP2:80", "backends": ["WEB1", "WEB2"]}]
    with pytest.raises(AssertionError) as raised:
        check(balancer, [Case(words, services, [*right, flow]) for words, flow in WRONG_FLOWS.items()])
    told = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in told if "from client to" in line] == list(WRONG_FLOWS)
