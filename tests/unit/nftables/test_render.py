# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the nftables engine writes, without a kernel. What the kernel makes of it is in tests/kernel."""

from __future__ import annotations

import re
from typing import Any

import pytest
import strategies
from _natlb.model.entities import Config
from _natlb.model.services import parse_config
from _natlb.model.surroundings import Surroundings
from _natlb.nftables import delta, layout, text
from _natlb.nftables import render as nftables
from _natlb.nftables.names import is_backend_chain
from _natlb.nftables.text import count, counts_elsewhere, full, in_parts, parse_listing
from _natlb.ruleset.sections import Key, Ruleset, Section
from hypothesis import given, settings

BACKENDS = [{"address": "10.0.0.3", "port": 8080}, {"address": "10.0.0.4", "port": 8080}]
V6 = [{"address": "2001:db8:2::3", "port": 8080}]
#: What catches a packet whose own slot is gone.
FIRST = "dnat ip to ip daddr . tcp dport . numgen random mod 1 map @slot_tcp"


def config(*services: dict[str, Any], egress: Any = None) -> Config:
    declared = [
        {"name": f"s{i}", "listen": f"192.0.2.{i}:80", "backends": BACKENDS, **service}
        for i, service in enumerate(services, 1)
    ]
    return parse_config(declared, egress)


def render(*services: dict[str, Any], egress: Any = None, networks: Any = ()) -> Ruleset:
    return nftables.render(config(*services, egress=egress), Surroundings(networks))


def body(ruleset: Ruleset, kind: str, name: str, family: str = "ip") -> list[str]:
    return list(ruleset[(family, "natlb", kind, name)].body)


def test_nothing_declared_is_nothing_rendered() -> None:
    assert nftables.render(parse_config([])) == {}


def test_round_robin_has_a_rule_of_its_own() -> None:
    ruleset = render({}, {})
    for name in ("s1", "s2"):
        rule = "dnat ip to ip daddr . tcp dport . numgen inc mod 2 map @slot_tcp"
        assert body(ruleset, "chain", f"s.{name}.tcp") == [rule, "goto first_slot_tcp"]
    assert body(ruleset, "chain", "first_slot_tcp") == [FIRST]
    assert body(ruleset, "map", "service") == [
        "192.0.2.1 . 6 . 80 : goto s.s1.tcp",
        "192.0.2.2 . 6 . 80 : goto s.s2.tcp",
    ]
    assert body(ruleset, "map", "slot_tcp")[:2] == [
        "192.0.2.1 . 80 . 0 : 10.0.0.3 . 8080",
        "192.0.2.1 . 80 . 1 : 10.0.0.4 . 8080",
    ]


def test_random_services_share_a_chain() -> None:
    ruleset = render({"method": "random"}, {"method": "random"})
    chain = "random_2_tcp"
    assert body(ruleset, "chain", chain) == [
        "dnat ip to ip daddr . tcp dport . numgen random mod 2 map @slot_tcp",
        "goto first_slot_tcp",
    ]
    assert body(ruleset, "chain", "first_slot_tcp") == [FIRST]
    assert {line.split(" : ")[1] for line in body(ruleset, "map", "service")} == {f"goto {chain}"}


@pytest.mark.parametrize(
    ("change", "name", "element"),
    [
        ({"listen": "192.0.2.9:8000-8010"}, "service_range", "192.0.2.9 . 6 . 8000-8010"),
        ({"interface": "eth0"}, "service_interface", '"eth0" . 192.0.2.1 . 6 . 80'),
        ({"interface": "eth0", "listen": "192.0.2.9:1-2"}, "service_interface_range", '"eth0" . 192.0.2.9 . 6 . 1-2'),
        ({"listen": "*:30080"}, "node", "6 . 30080"),
        ({"listen": "*:30080-30090", "protocol": "udp"}, "node", "17 . 30080-30090"),
        ({"listen": "*:30080", "interface": "eth1"}, "node_interface", '"eth1" . 6 . 30080'),
    ],
)
def test_frontends_without_a_single_key(change: dict[str, Any], name: str, element: str) -> None:
    ruleset = render(change)
    protocol = change.get("protocol", "tcp")
    assert body(ruleset, "map", name) == [f"{element} : goto s.s1.{protocol}"]
    assert body(ruleset, "chain", f"b.s1.{protocol}.10.0.0.3.8080") == [
        f"meta l4proto {protocol} counter dnat ip to 10.0.0.3:8080"
    ]
    assert any(f"vmap @{name}" in rule for rule in body(ruleset, "chain", "prerouting"))
    local = ruleset.get(Key("ip", "natlb", "chain", "output"), Section((), ()))
    assert any(f"vmap @{name}" in rule for rule in local.body) == ("interface" not in name)


def test_guards_come_before_the_choice_cheapest_first() -> None:
    change = {
        "method": "random",
        "allow_from": ["198.51.100.0/25", "198.51.100.128/25", "203.0.113.9"],
        "new_connections_per_second": 7,
        "max_connections_per_client": 5,
        "log": True,
    }
    ruleset = render(change)
    rules = body(ruleset, "chain", "s.s1.tcp")
    assert [rule.split("goto")[0].strip() for rule in rules[:3]] == [
        "ip saddr != @allow.s1",
        "update @rate.s1/7 { ip saddr limit rate over 7/second burst 7 packets }",
        "add @connections.s1/5 { ip saddr ct count over 5 }",
    ]
    assert [rule.split("goto ")[1] for rule in rules[:3]] == ["refuse", "refuse", "over_limit"]
    assert body(ruleset, "chain", "over_limit") == [
        "ip saddr . tcp sport @over_limit goto refuse",
        "add @over_limit { ip saddr . tcp sport } drop",
        "goto refuse",
    ]
    assert rules[3] == 'limit rate 10/second burst 20 packets log prefix "natlb s1 "'
    assert "numgen random mod 2" in rules[4]
    assert body(ruleset, "set", "allow.s1") == ["198.51.100.0/24", "203.0.113.9"]


@pytest.mark.parametrize(("when_empty", "verdict"), [("reject", "goto refuse"), ("drop", "drop")])
def test_nobody_to_serve(when_empty: str, verdict: str) -> None:
    ruleset = render({"backends": [], "when_empty": when_empty})
    assert body(ruleset, "map", "service") == [f"192.0.2.1 . 6 . 80 : {verdict}"]


@pytest.mark.parametrize(
    ("snat", "chain", "rules"),
    [
        ("masquerade", "source_nat_masquerade", ["masquerade"]),
        ("192.0.2.99", "source_nat.s1", ["snat ip to 192.0.2.99"]),
        (
            ["192.0.2.98", "192.0.2.99"],
            "source_nat.s1",
            ["snat ip to numgen random mod 2 map { 0 : 192.0.2.98, 1 : 192.0.2.99 }"],
        ),
    ],
)
def test_source_nat(snat: Any, chain: str, rules: list[str]) -> None:
    ruleset = render({"snat": snat})
    assert body(ruleset, "map", "source_nat") == [f"192.0.2.1 . 6 . 80 : goto {chain}"]
    assert body(ruleset, "chain", chain) == rules


def test_clients_beside_a_backend_are_masqueraded() -> None:
    ruleset = render({"snat": "none"}, networks=["10.0.0.0/8", "10.0.0.0/24", "2001:db8::/32"])
    assert body(ruleset, "set", "hairpin") == ["10.0.0.0/8 . 10.0.0.3", "10.0.0.0/8 . 10.0.0.4"]
    assert body(render({"snat": "none"}), "set", "hairpin") == ["10.0.0.3 . 10.0.0.3", "10.0.0.4 . 10.0.0.4"]


def test_both_families() -> None:
    ruleset = render({"listen": ["192.0.2.1:80", "[2001:db8::10]:80"], "backends": BACKENDS + V6})
    assert body(ruleset, "map", "slot_tcp", "ip6") == ["2001:db8::10 . 80 . 0 : 2001:db8:2::3 . 8080"]
    assert len(body(ruleset, "map", "slot_tcp")) == 2


def test_egress() -> None:
    egress = [
        {"source": "10.0.0.0/24", "out_interface": "eth0"},
        {"source": "10.1.0.0/16", "protocol": "tcp", "destination_ports": [443, 80], "snat": "192.0.2.9"},
    ]
    rules = body(render(egress=egress), "chain", "postrouting")
    assert rules == [
        'ip saddr { 10.0.0.0/24 } ip daddr != { 10.0.0.0/24 } oifname "eth0" masquerade',
        "ip saddr { 10.1.0.0/16 } ip daddr != { 10.1.0.0/16 } tcp dport { 80, 443 } snat ip to 192.0.2.9",
    ]


def test_egress_ports_are_merged() -> None:
    egress = [{"source": "10.0.0.0/8", "protocol": "udp", "destination_ports": [82, "80-81", "90-99", 95]}]
    assert "udp dport { 80-82, 90-99 }" in body(render(egress=egress), "chain", "postrouting")[0]


def test_slot_maps_are_spread_so_that_no_map_is_looked_up_by_too_many_rules() -> None:
    services = [
        {"name": f"s{i}", "listen": f"198.18.{i >> 8}.{i & 255}:80", "backends": BACKENDS} for i in range(1, 1500)
    ]
    ruleset = nftables.render(parse_config(services))
    rules: dict[str, int] = {}
    for key, section in ruleset.items():
        if key[2] == "chain" and key[3].startswith("s."):
            name = section.body[0].rpartition("@")[2]
            rules[name] = rules.get(name, 0) + 1
    assert len(rules) == 32
    assert max(rules.values()) < 2 * layout.SERVICES_PER_MAP


LISTING = """table ip natlb {
\tmap slot_tcp {
\t\ttypeof ip daddr . tcp dport . numgen random mod 65536 : ip daddr . tcp dport
\t\tcounter
\t\telements = { 192.0.2.1 . 80 . 0 counter packets 7 bytes 420 : 10.0.0.3 . 8080,
\t\t\t     192.0.2.1 . 80 . 1 counter packets 6 bytes 360 : 10.0.0.4 . 8080 }
\t}

\tset rate.s1 {
\t\ttypeof ip saddr
\t\tsize 65536
\t\tflags dynamic,timeout
\t\telements = { 198.51.100.7 limit rate over 5/second burst 5 packets expires 3s }
\t}

\tchain prerouting {
\t\ttype nat hook prerouting priority -100; policy accept;
\t\tip daddr . meta l4proto . th dport vmap @service
\t}
}
table ip other {
\tchain natlb {
\t\taccept
\t}
}
"""


def test_a_listing_is_read_without_what_packets_put_into_it() -> None:
    ruleset = parse_listing(LISTING.replace(" packets 7 bytes 420", "").replace(" packets 6 bytes 360", ""))
    assert body(ruleset, "map", "slot_tcp") == [
        "192.0.2.1 . 80 . 0 : 10.0.0.3 . 8080",
        "192.0.2.1 . 80 . 1 : 10.0.0.4 . 8080",
    ]
    assert body(ruleset, "set", "rate.s1") == []
    header = ("type nat hook prerouting priority -100; policy accept;",)
    assert ruleset[Key("ip", "natlb", "chain", "prerouting")].header == header
    assert {key[1] for key in ruleset} == {"natlb"}


@settings(max_examples=60, deadline=None)
@given(strategies.services(most=1))
def test_who_is_counted_by_more_than_slots(declared: list[dict[str, Any]]) -> None:
    """Whoever has a chain of a backend: slots alone say nothing of its connections."""
    found = parse_config(declared)
    has_chains = any(key.kind == "chain" and is_backend_chain(key.name) for key in nftables.render(found))
    assert not has_chains or any(map(counts_elsewhere, found.services))


def test_connections_are_counted_by_backend() -> None:
    assert count(config({}), LISTING) == {("s1", "10.0.0.3 8080"): 7, ("s1", "10.0.0.4 8080"): 6}


def test_a_delta_touches_only_what_differs() -> None:
    before, after = render({}, {}), render({}, {"backends": BACKENDS[:1]})
    (text,) = delta.delta(before, after, after)
    assert text.splitlines() == [
        "flush chain ip natlb s.s2.tcp",
        "delete element ip natlb slot_tcp { 192.0.2.2 . 80 . 1 : 10.0.0.4 . 8080 }",
        "add rule ip natlb s.s2.tcp goto first_slot_tcp",
    ]


def test_invalid_packets_of_backends_are_dropped() -> None:
    ranges = {"listen": "192.0.2.9:8000-8010", "protocol": ["tcp", "udp"], "backends": [{"address": "10.0.0.3"}]}
    overlapping = {"listen": "192.0.2.8:8005-8020", "protocol": "udp", "backends": [{"address": "10.0.0.3"}]}
    ruleset = render({}, {}, ranges, overlapping)
    for hook in ("input", "forward"):
        assert body(ruleset, "chain", hook) == ["ct state invalid goto invalid"]
    assert body(ruleset, "chain", "invalid") == [
        "tcp flags & (syn | ack) == syn | ack return",
        "ip saddr . meta l4proto . th sport @backends drop",
        "ip saddr . meta l4proto . th sport @backends_range drop",
        "ip daddr . meta l4proto . th dport @frontend drop",
        "ip daddr . meta l4proto . th dport @frontend_range drop",
    ]
    assert body(ruleset, "set", "backends") == ["10.0.0.3 . 6 . 8080", "10.0.0.4 . 6 . 8080"]
    assert body(ruleset, "set", "backends_range") == ["10.0.0.3 . 17 . 8000-8020", "10.0.0.3 . 6 . 8000-8010"]
    assert not [key for key in render(egress=[{"source": "10.0.0.0/24"}]) if key[3] in ("forward", "input", "invalid")]


def test_invalid_packets_to_frontends_are_dropped() -> None:
    card, range_of_card = {"interface": "eth1"}, {"listen": "192.0.2.9:81-82", "interface": "eth1"}
    ruleset = render(card, range_of_card, {"listen": "*:90"}, {"listen": "*:91-99", "interface": "eth1"})
    local = "fib daddr type local ip daddr != 127.0.0.0/8"
    assert body(ruleset, "chain", "invalid")[2:] == [
        "meta iifname . ip daddr . meta l4proto . th dport @frontend_interface drop",
        "meta iifname . ip daddr . meta l4proto . th dport @frontend_interface_range drop",
        f"{local} meta l4proto . th dport @frontend_node drop",
        f"{local} meta iifname . meta l4proto . th dport @frontend_node_interface drop",
    ]
    assert body(ruleset, "set", "frontend_interface_range") == ['"eth1" . 192.0.2.9 . 6 . 81-82']
    assert body(ruleset, "set", "frontend_node") == ["6 . 90"]


def test_what_nothing_leads_to_yet_is_added_first() -> None:
    """So that no packet is led to a chain that has no rules in the generation in which it began."""
    before = render({"method": "random", "backends": BACKENDS[:1]})
    after = render({"method": "random"})
    before["ip", "natlb", "set", "backends"] = after["ip", "natlb", "set", "backends"]
    first, second, last = delta.delta(before, after, after)
    assert first.splitlines() == [
        "add chain ip natlb random_2_tcp",
        "add rule ip natlb random_2_tcp dnat ip to ip daddr . tcp dport . numgen random mod 2 map @slot_tcp",
        "add rule ip natlb random_2_tcp goto first_slot_tcp",
        "add element ip natlb slot_tcp { 192.0.2.1 . 80 . 1 : 10.0.0.4 . 8080 }",
    ]
    assert second.splitlines() == [
        "flush chain ip natlb random_1_tcp",
        "delete element ip natlb service { 192.0.2.1 . 6 . 80 : goto random_1_tcp }",
        "add element ip natlb service { 192.0.2.1 . 6 . 80 : goto random_2_tcp }",
    ]
    assert last == "delete chain ip natlb random_1_tcp\n", "not before what named it is gone: Linux 6.1 would refuse"


def test_slots_that_nothing_leads_to_any_more_go_last() -> None:
    before, after = render({}, {}), render({})
    first, second = delta.delta(before, after, after)
    assert "slot_tcp" not in first
    elements = "192.0.2.2 . 80 . 0 : 10.0.0.3 . 8080, 192.0.2.2 . 80 . 1 : 10.0.0.4 . 8080"
    assert second.splitlines() == [
        f"delete element ip natlb slot_tcp {{ {elements} }}",
        "delete chain ip natlb s.s2.tcp",
    ]


def test_a_service_that_moves_to_another_map_has_slots_in_both_meanwhile() -> None:
    many = [{"listen": f"192.0.2.1:{port}"} for port in range(1, layout.SERVICES_PER_MAP + 2)]
    before, after = render(*many[:-1]), render(*many)
    added, switched, removed = delta.delta(before, after, after)
    moved = set(body(before, "map", "slot_tcp")) - set(body(after, "map", "slot_tcp"))
    assert moved
    for element in moved:
        assert element in added
        assert element not in switched
        assert element in removed
    assert "flush chain" in switched
    added, switched, removed = delta.delta(after, before, before)
    assert "delete map ip natlb slot_tcp_1" in removed.splitlines()
    assert "slot_tcp_1" not in switched


def test_replacing_is_one_text_that_removes_and_adds() -> None:
    lines = full(render({})).splitlines()
    assert lines[:5] == [
        "table ip natlb",
        "delete table ip natlb",
        "table ip6 natlb",
        "delete table ip6 natlb",
        "table ip natlb {",
    ]
    assert full({}, ["ip"]) == "table ip natlb\ndelete table ip natlb\n"


def test_a_small_first_load_is_one_transaction() -> None:
    ruleset = render({}, {"method": "source_hash"})
    assert in_parts(ruleset) == [full(ruleset)]


def test_a_large_first_load_hooks_in_what_the_parts_before_have_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_MOST_ELEMENTS", 100)
    hashes = [{"method": "source_hash", "backends": [{"address": f"10.0.{i}.{k}"} for k in (1, 2)]} for i in range(3)]
    networks = [f"10.{i}.0.0/16" for i in range(0, 250, 2)]
    ruleset = render(*hashes, {"listen": "192.0.2.10:1000-1005", "allow_from": networks}, networks=["10.0.0.0/24"])
    first, *fillings, last = in_parts(ruleset)
    hooked = {key[3] for key, section in ruleset.items() if key[2] == "chain" and section.header}
    assert {*re.findall(r"chain (\S+) \{", last)} == hooked
    assert not hooked & {*re.findall(r"chain (\S+) \{", first)}
    assert all(network in first for network in networks)
    assert max(part.count(" : ") for part in fillings) == 100
    loaded = [
        (name, element)
        for part in fillings
        for name, elements in re.findall(r"^add element ip natlb (\S+) \{ (.*) \}$", part, re.MULTILINE)
        for element in elements.split(", ")
    ]
    assert sorted(loaded) == sorted(
        (key[3], element)
        for key, section in ruleset.items()
        if key[2] == "map" and "flags interval" not in section.header
        for element in section.body
    )
