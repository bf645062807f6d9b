# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Listings of other firewalls, and whether packets of ours pass them."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from _natlb.firewalls.forward import Opening
from _natlb.firewalls.forward_path import denial, may_deny, packets
from _natlb.firewalls.listing import forward_hooks, is_of_iptables, parse_nft, parse_save
from _natlb.firewalls.walk import Packet
from _natlb.host.nf_tables import BaseChain
from _natlb.iptables import forward_rules
from _natlb.model.services import parse_config
from _natlb.ruleset.sections import Key, Section

ROUTES = [
    (ipaddress.ip_network(network), interface)
    for network, interface in (
        ("0.0.0.0/0", "eth0"),
        ("192.0.2.0/24", "eth0"),
        ("10.0.0.0/24", "eth1"),
        ("::/0", "eth0"),
    )
]
SERVICE = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"address": "10.0.0.3", "port": 8080}]}


def tried(services: Any = (SERVICE,), egress: Any = ()) -> list[Packet]:
    return packets(parse_config(list(services), list(egress)), ROUTES)


def save(*rules: str, policy: str = "DROP", chains: tuple[str, ...] = ()) -> Any:
    heads = [":INPUT ACCEPT [0:0]", f":FORWARD {policy} [1:60]", *(f":{name} - [0:0]" for name in chains)]
    found = parse_save("ip", "\n".join(["*filter", *heads, *rules, "COMMIT"]) + "\n", "here")
    assert found is not None
    return found


#: Rules of FORWARD, and whether a policy of DROP behind them closes the path to a service.
IPTABLES = [
    ([], True),
    (["-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"], True),
    (["-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT"], False),
    (["-A FORWARD -m conntrack ! --ctstate INVALID -j ACCEPT"], False),
    (["-A FORWARD -i eth0 -j ACCEPT"], True),
    (["-A FORWARD -i eth0 -j ACCEPT", "-A FORWARD -i eth1 -j ACCEPT"], False),
    (["-A FORWARD -i eth+ -j ACCEPT"], False),
    (["-A FORWARD ! -i docker0 -j ACCEPT"], False),
    (["-A FORWARD -p udp -j ACCEPT"], True),
    (["-A FORWARD -d 10.0.0.0/24 -p tcp -m tcp --dport 8080 -j ACCEPT", "-A FORWARD -s 10.0.0.3/32 -j ACCEPT"], False),
    (["-A FORWARD -d 10.0.0.0/24 -p tcp -m tcp --dport 80 -j ACCEPT", "-A FORWARD -s 10.0.0.3/32 -j ACCEPT"], True),
    (["-A FORWARD -p tcp -m multiport --dports 80,8000:8100 -j ACCEPT", "-A FORWARD -i eth1 -j ACCEPT"], False),
    # Nobody can tell, so nobody is alarmed.
    (["-A FORWARD -m mark --mark 0x1 -j ACCEPT"], False),
    (["-A FORWARD -m set --match-set good src -j ACCEPT"], False),
    (["-A FORWARD -j NFQUEUE --queue-num 0"], False),
    (["-A FORWARD -m limit --limit 1/sec -j LOG --log-prefix \"ACCEPT -j ACCEPT\""], True),
    (["-A FORWARD -m comment --comment \"-j ACCEPT\" -j DROP", "-A FORWARD -j ACCEPT"], True),
    (["-A FORWARD -j a", "-A a -j RETURN", "-A a -j ACCEPT"], True),
    (["-A FORWARD -j a", "-A a -g b", "-A a -j ACCEPT", "-A b -i eth9 -j ACCEPT"], True),
    (["-A FORWARD -g a", "-A FORWARD -j ACCEPT", "-A a -i eth9 -j ACCEPT"], True),
    (["-A FORWARD -j a", "-A a -j b", "-A b -j a", "-A b -j ACCEPT"], False),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "is_closed"), IPTABLES)
def test_iptables(rules: list[str], is_closed: bool) -> None:
    chains = save(*rules, chains=("a", "b"))
    assert (denial(chains, tried()) is not None) == is_closed


def test_the_rule_that_denies_is_named() -> None:
    rules = ["-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -i eth0 -j DROP", "-A DOCKER-USER -j RETURN"]
    found = denial(save(*rules, policy="ACCEPT", chains=("DOCKER-USER",)), tried())
    assert found is not None
    assert found.text() == (
        "service web: connections are not forwarded, because of here (-A DOCKER-USER -i eth0 -j DROP)"
    )


def test_many_are_named_in_few_words() -> None:
    services = [{**SERVICE, "name": f"s{i}", "listen": f"192.0.2.10:{80 + i}"} for i in range(9)]
    found = denial(save(), tried(services))
    assert found is not None
    assert found.text().startswith("service s0, service s1, service s2, …: ")


def test_a_way_is_walked_once_however_many_services_take_it() -> None:
    services = [{**SERVICE, "name": f"s{i}", "listen": f"192.0.2.10:{80 + i}"} for i in range(1000)]
    other = {**SERVICE, "name": "other", "listen": "192.0.2.11:80", "backends": [{"address": "10.0.0.9"}]}
    way_there_and_back = 2
    assert len(tried([*services, other])) == 2 * way_there_and_back
    found = denial(save("-A FORWARD -d 10.0.0.9/32 -j DROP", policy="ACCEPT"), tried([*services, other]))
    assert found is not None
    assert found.owners == ("service other",)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_every_protocol_of_a_service_is_walked(protocol: str) -> None:
    chains = save(f"-A FORWARD -p {protocol} -j DROP", policy="ACCEPT")
    assert denial(chains, tried([{**SERVICE, "protocol": ["tcp", "udp"]}])) is not None


def test_backends_are_named_where_others_are_let_through() -> None:
    backends = [{"address": f"10.0.0.{i}", "port": 8080} for i in (3, 4, 5)]
    found = denial(
        save("-A FORWARD -d 10.0.0.4/31 -j DROP", policy="ACCEPT"), tried([{**SERVICE, "backends": backends}])
    )
    assert found is not None
    assert found.owners == ("service web to 10.0.0.4 and 10.0.0.5",)


def test_what_is_ours_does_not_count() -> None:
    """Or the next run would find the path open, and close it."""
    chains = save("-A FORWARD -j NATLB.forward", "-A NATLB.forward -j ACCEPT", chains=("NATLB.forward",))
    assert denial(chains, tried())
    assert not may_deny(chains, tried(), stop=forward_rules.ROOT)
    behind = save("-A FORWARD -s 203.0.113.7/32 -j DROP", "-A FORWARD -j NATLB.forward", chains=("NATLB.forward",))
    assert may_deny(behind, tried(), stop=forward_rules.ROOT)


def nft(*rules: str, policy: str = "drop", more: str = "", family: str = "inet") -> Any:
    lines = "".join(f"\t\t{rule}\n" for rule in rules)
    head = f"\t\ttype filter hook forward priority filter; policy {policy};\n"
    listing = f"table {family} wall {{\n\tchain forward {{\n{head}{lines}\t}}\n{more}}}\n"
    return next(chains for chains in parse_nft(listing) if chains.family == "ip")


NFT = [
    ([], True),
    (["ct state established,related accept"], True),
    (["ct status dnat accept"], False),
    (["ct status & dnat == dnat counter accept comment \"ours\""], False),
    (["ct state vmap { invalid : drop, established : accept, related : accept }"], True),
    (["ct state vmap { established : accept, new : accept }"], False),
    (["iifname \"eth0\" oifname \"eth1\" accept"], True),
    (["iifname \"eth0\" oifname \"eth1\" accept", "iifname \"eth1\" ct state established accept"], False),
    (["iifname { \"eth0\", \"eth1\" } accept"], False),
    (["iifname \"eth*\" counter packets 0 bytes 0 accept"], False),
    (["iifname != \"eth0\" accept"], True),
    (["meta nfproto ipv6 accept"], True),
    (["ip daddr 10.0.0.0/24 tcp dport { 80, 8080 } accept", "ip saddr 10.0.0.3 accept"], False),
    (["ip daddr 10.0.0.0/24 tcp dport { 80, 443 } accept", "ip saddr 10.0.0.3 accept"], True),
    (["meta l4proto tcp accept"], False),
    (["udp dport 8080 accept"], True),
    (["ip saddr @good accept"], False),
    (["tcp dport vmap @verdicts"], False),
    (["meta mark 0x00000001 accept"], False),
    (["log prefix \"accept\" level info", "limit rate 1/second log prefix \"no accept\""], True),
    (["log prefix \"x\" flags all counter reject with icmpx admin-prohibited", "accept"], True),
    (["jump other"], True),
    (["goto other", "accept"], True),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "is_closed"), NFT)
def test_nft(rules: list[str], is_closed: bool) -> None:
    chains = nft(*rules, more='\n\tchain other {\n\t\tiifname "eth9" accept\n\t}\n')
    assert (denial(chains, tried()) is not None) == is_closed


def test_egress_is_told_apart_from_services() -> None:
    chains = nft("ct state established accept", "ct status dnat accept")
    assert denial(chains, tried()) is None
    found = denial(chains, tried(egress=[{"source": "10.0.0.0/24"}]))
    assert found is not None
    assert (found.owners, found.dnat, found.sources) == (("egress of 10.0.0.0/24",), False, ("10.0.0.0/24",))
    opened = nft("ct state established accept", 'iifname "eth1" oifname "eth0" ip saddr 10.0.0.0/16 accept')
    assert denial(opened, tried((), [{"source": "10.0.0.0/24"}])) is None


def test_base_chains_at_the_hook_are_found() -> None:
    chains = [
        BaseChain("ip", "filter", "FORWARD", "filter", "forward", 0),
        BaseChain("inet", "wall", "f", "filter", "forward", 5),
        BaseChain("inet", "wall", "o", "filter", "output", 5),
        BaseChain("bridge", "b", "f", "filter", "forward", 0),
    ]
    hooks = forward_hooks(chains)
    assert hooks == [("ip", "filter", "FORWARD"), ("inet", "wall", "f")]
    assert [is_of_iptables(hook) for hook in hooks] == [True, False]


def test_rules_for_ours_alone() -> None:
    config = parse_config(
        [SERVICE, {"name": "node", "listen": "*:90", "backends": [{"address": "10.0.0.4"}]}],
        [{"source": "10.0.0.0/24", "out_interface": "eth0", "protocol": "tcp", "destination_ports": ["80-90"]}],
    )
    lines = [line for section in forward_rules.render(config, "ip").values() for line in section.body]
    assert "-A FORWARD -j NATLB.forward" in lines
    rules = {line.split(" ", 2)[2] for line in lines}
    assert "-m conntrack --ctorigdst 192.0.2.10 --ctorigdstport 80 -j ACCEPT" in rules
    assert "-m conntrack --ctreplsrc 10.0.0.4 --ctreplsrcport 90 -j ACCEPT" in rules
    egress = "-m conntrack --ctorigsrc 10.0.0.0/24 --ctproto tcp --ctorigdstport 80:90 --ctdir"
    assert f"-o eth0 {egress} ORIGINAL -j ACCEPT" in rules
    assert f"-i eth0 {egress} REPLY -j ACCEPT" in rules
    assert forward_rules.render(config, "ip6") == {}


def test_our_two_kinds_of_chains_are_told_apart() -> None:
    """One jump section of FORWARD may hold both; so may a name of a service come near."""
    config = parse_config([{**SERVICE, "name": "forward"}, {**SERVICE, "name": "a", "listen": "192.0.2.10:81"}])
    forward = forward_rules.render(config, "ip")
    key = Key("ip", "filter", "jump", "FORWARD")
    section = type(forward[key])((), ("-A FORWARD -j NATLB.refuse", *forward[key].body))
    other = {
        Key("ip", "filter", "chain", "NATLB.forward.tcp"): section,
        Key("ip", "nat", "chain", "NATLB.a.tcp"): section,
    }
    engine, ours = forward_rules.split({**forward, **other, key: section})
    assert ours == forward
    assert engine[key].body == ("-A FORWARD -j NATLB.refuse",)
    assert set(other) <= set(engine)


def test_what_somebody_flushes_right_after_a_load_is_still_known_as_it_was_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or nothing would be put back."""
    jump, chain = Key("ip", "filter", "jump", "FORWARD"), Key("ip", "filter", "chain", "NATLB.forward")
    opening = Opening("nft")
    opening.rendered = {jump: Section((), ("-A FORWARD -j X",)), chain: Section((), ("as rendered",))}
    listed = Section((), ("as listed",))
    for found, wanted in (
        ({jump: listed, chain: listed}, {jump: listed, chain: listed}),
        ({chain: listed}, {jump: opening.rendered[jump], chain: listed}),
        ({jump: listed, chain: Section((), ())}, {jump: listed, chain: opening.rendered[chain]}),
    ):
        monkeypatch.setattr(opening, "listed", lambda found=found: found)
        assert opening.as_loaded() == wanted
