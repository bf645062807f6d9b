# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Base chains of others at every hook, and what they do to packets of ours. The kernel's own word: tests/kernel."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from _natlb.firewalls.foreign import _jump_behind
from _natlb.firewalls.listing import parse_nft, parse_save
from _natlb.firewalls.obstacles import Place, Traffic, warnings
from _natlb.model.services import parse_config

ROUTES = [
    (ipaddress.ip_network(network), interface)
    for network, interface in (("0.0.0.0/0", "eth0"), ("192.0.2.0/24", "eth0"), ("10.0.0.0/24", "eth1"))
]
LOCAL = {"192.0.2.2", "192.0.2.10"}
WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3", "port": 8080}]}
PRE = {"hook": "prerouting", "kind": "filter", "priority": -150}
NAT = {"hook": "prerouting", "kind": "nat", "priority": -110, "before": "yes"}
POST = {"hook": "postrouting", "kind": "nat", "priority": 90, "before": "yes"}


def told(
    *rules: str, at: Any, family: str = "inet", services: Any = (WEB,), bridges: Any = (), **keys: Any
) -> list[str]:
    where = {**at, **keys}
    body = "".join(f"\t\t{rule}\n" for rule in rules)
    head = f"\t\ttype {where['kind']} hook {where['hook']} priority {where['priority']}; policy accept;\n"
    listing = f"table {family} wall {{\n\tchain c {{\n{head}{body}\t}}\n}}\n"
    places = [Place(chains, family, **where) for chains in parse_nft(listing, where["hook"])]
    assert places
    return list(warnings(places, Traffic(parse_config(list(services)), ROUTES, LOCAL, bridges)))


#: Where a chain is, its rule, and whether it concerns the service for certain.
CASES = [
    (PRE, "ip daddr 192.0.2.10 drop", True),
    (PRE, "ip daddr 192.0.2.11 drop", False),
    (PRE, "tcp dport { 22, 80 } drop", True),
    (PRE, "tcp dport 8080 drop", False),
    (PRE, "udp dport 80 drop", False),
    (PRE, "iifname \"eth1\" drop", True),
    (PRE, "iifname \"eth2\" drop", False),
    (PRE, "ip saddr 10.0.0.3 ct state established drop", True),
    (PRE, "ip saddr 203.0.113.9 drop", False),
    (PRE, "meta mark 7 drop", False),
    (PRE, "meta mark set 7 meta mark 7 drop", False),
    (PRE, "ct mark set 0x7 ip daddr 192.0.2.10 tcp dport 80 drop", True),
    (PRE, "fib daddr type local tcp dport 80 drop", True),
    (PRE, "fib daddr type != local tcp dport 80 drop", False),
    (PRE, "fib daddr type broadcast drop", False),
    (PRE, "fib saddr . mark . iif oif missing drop", False),
    ({**PRE, "priority": -300}, "ip daddr 192.0.2.10 tcp dport 80 notrack", True),
    ({**PRE, "priority": -300}, "ct state new drop", False),
    ({**PRE, "priority": 0}, "ip daddr 192.0.2.10 drop", False),
    ({**PRE, "priority": 0}, "ip daddr 10.0.0.3 tcp dport 8080 drop", True),
    ({**PRE, "hook": "postrouting"}, "oifname \"eth1\" drop", True),
    ({**PRE, "hook": "postrouting", "priority": 300}, "ip saddr 198.51.100.0/24 drop", False),
    (NAT, "ip daddr 192.0.2.10 tcp dport 80 dnat ip to 10.0.0.9:80", True),
    (NAT, "tcp dport 80 counter redirect to :3128", True),
    (NAT, "ip daddr 192.0.2.10 tcp dport 80 dnat ip to numgen inc mod 2 map { 0 : 10.0.0.8, 1 : 10.0.0.9 }", True),
    (NAT, "dnat ip to ip daddr . tcp dport map @services", False),
    (NAT, "tcp dport 80 accept", False),
    (POST, "oifname \"eth1\" masquerade", False),
]  # fmt: skip


@pytest.mark.parametrize(("at", "rule", "concerns"), CASES)
def test_a_rule_of_nft(at: Any, rule: str, concerns: bool) -> None:
    assert [text.partition(":")[0] for text in told(rule, at=at)] == ["service web"] * concerns


@pytest.mark.parametrize(
    ("snat", "rule", "concerns"),
    [
        ("none", "oifname \"eth1\" masquerade", True),
        ("none", "ip saddr 10.0.0.0/24 masquerade", False),
        ("none", "snat ip to 192.0.2.2", True),
        ("192.0.2.2", "oifname \"eth1\" masquerade", True),
        ("masquerade", "oifname \"eth1\" snat ip to 10.0.0.1", False),
    ],
)  # fmt: skip
def test_source_addresses_that_others_choose(snat: str, rule: str, concerns: bool) -> None:
    assert bool(told(rule, at=POST, services=[{**WEB, "snat": snat}])) == concerns


def test_only_the_device_by_which_clients_come() -> None:
    at = {"hook": "ingress", "kind": "filter", "priority": 0}
    assert told("tcp dport 80 drop", at=at, family="netdev", devices=("eth0", "eth1"))
    assert told("tcp dport 80 drop", at=at, family="netdev", devices=("eth1",)) == []


def test_a_bridge_concerns_what_comes_in_by_one() -> None:
    at = {"hook": "prerouting", "kind": "filter", "priority": -300}
    assert told("ip daddr 192.0.2.10 drop", at=at, family="bridge") == []
    assert told("ip daddr 192.0.2.10 drop", at=at, family="bridge", bridges=["eth0"])
    assert told('iifname "eth0" drop', at=at, family="bridge", bridges=["eth0"]) == [], "there it is a port"


def test_where_only_some_backends_are_cut_off_they_are_named() -> None:
    backends = [{"address": f"10.0.0.{i}", "port": 8080} for i in (3, 4)]
    (text,) = told("ip daddr 10.0.0.4 drop", at={**PRE, "priority": 0}, services=[{**WEB, "backends": backends}])
    assert text.startswith(
        "service web to 10.0.0.4: packets are dropped by table inet wall, chain c (ip daddr 10.0.0.4 "
    )


#: Rules of PREROUTING of the table nat before the jump into ours, and whether they keep the service from it.
BEFORE = [
    (["-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
      "-A DOCKER -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80"], True),
    (["-A PREROUTING -m addrtype ! --dst-type LOCAL -j ACCEPT"], False),
    (["-A PREROUTING -i eth0 -j ACCEPT"], True),
    (["-A PREROUTING -i eth0 -p tcp -m tcp --dport 443 -j REDIRECT --to-ports 8443"], False),
    (["-A PREROUTING -d 192.0.2.0/24 -j NETMAP --to 10.9.0.0/24"], True),
    (["-A PREROUTING -m set --match-set them dst -j DNAT --to-destination 10.0.0.9"], False),
    ([], False),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "keeps"), BEFORE)
def test_a_rule_of_iptables_before_ours(rules: list[str], keeps: bool) -> None:
    heads = [":PREROUTING ACCEPT [0:0]", ":DOCKER - [0:0]", ":NATLB.pre - [0:0]"]
    behind = ["-A PREROUTING -j NATLB.pre", "-A PREROUTING -p tcp -j REDIRECT --to-ports 1"]
    text = "\n".join(["*nat", *heads, *rules, *behind, "COMMIT"]) + "\n"
    chains = parse_save("ip", text, "here", "nat", "PREROUTING")
    assert chains is not None
    place = Place(chains, "ip", "prerouting", "nat", -100, (), "yes", _jump_behind("\n".join([*rules, *behind])))
    assert place.stop == ("NATLB.pre" if rules else "")
    traffic = Traffic(parse_config([WEB]), ROUTES, LOCAL)
    assert bool(list(warnings([place] if place.stop else [], traffic))) == keeps


def test_without_a_jump_of_ours_nothing_is_before_it() -> None:
    assert _jump_behind("-P PREROUTING ACCEPT\n-A PREROUTING -j DOCKER\n") == ""
