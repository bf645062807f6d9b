# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client gets, and the networks that the rules have for it: apart from each other, right for every client."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from _natlb.errors import ConfigErrors
from _natlb.firewalls.obstacles import Traffic
from _natlb.iptables import render as iptables
from _natlb.iptables.engine import _may_meet_another_port
from _natlb.model.entities import Config, Service
from _natlb.model.services import parse_config
from _natlb.model.source_nat import ClientSnat, SourceNat, by_network, decisive
from _natlb.model.surroundings import Surroundings
from _natlb.model.takeover import taking_over
from _natlb.model.unclaimed import unclaimed
from _natlb.nftables import render as nftables
from _natlb.warnings import addresses
from hypothesis import given, settings
from hypothesis import strategies as st

NONE, MASQUERADE, ADDRESS = SourceNat("none"), SourceNat("masquerade"), SourceNat("address", ("10.0.0.9",))
PODS = {"networks": ["10.244.0.0/16"], "snat": "none"}


def declared(count: int = 1, **keys: Any) -> Config:
    keys = {"backends": [{"address": "10.0.0.3", "port": 80}], "snat_by_client": [PODS], **keys}
    return parse_config([{"name": f"s{n}", "listen": f"192.0.2.10:{1000 + n}", **keys} for n in range(count)])


def service(**keys: Any) -> Service:
    return declared(**keys).services[0]


@pytest.mark.parametrize(
    ("client", "gets"),
    [("10.1.1.1", NONE), ("10.0.0.1", ADDRESS), ("10.0.0.2", NONE), ("11.0.0.1", None), ("2001:db8::1", MASQUERADE)],
)
def test_the_longest_prefix_decides(client: str, gets: SourceNat | None) -> None:
    rules = [
        ClientSnat(("10.0.0.0/24", "2001:db8::/32"), MASQUERADE),
        ClientSnat(("10.0.0.2/32", "10.0.0.0/8"), NONE),
        ClientSnat(("10.0.0.1/32",), ADDRESS),
    ]
    assert decisive(rules, client) == gets
    assert decisive(rules[::-1], client) == gets


def test_all_others_have_what_the_service_says() -> None:
    one = service(snat="10.0.0.9")
    assert (one.source_nat.of("10.244.0.1", "10.0.0.3"), one.source_nat.of("10.245.0.1", "10.0.0.3")) == (NONE, ADDRESS)
    assert one.source_nat.answers == (ADDRESS, NONE)
    assert (one.source_nat.shows_clients, one.source_nat.always_masquerades) == (True, False)
    assert service(snat_by_client=[]).source_nat.always_masquerades
    assert not service(snat_by_client=[{**PODS, "snat": "10.0.0.9"}]).source_nat.shows_clients


def test_a_client_goes_before_a_backend_and_that_before_the_service() -> None:
    own = [{"address": "10.0.0.3", "port": 80}, {"address": "10.0.0.4", "port": 80, "snat": "10.0.0.9"}]
    says = service(backends=own).source_nat
    asked = [("10.244.0.1", "10.0.0.3"), ("10.244.0.1", "10.0.0.4"), ("11.0.0.1", "10.0.0.3"), ("11.0.0.1", "10.0.0.4")]
    assert [says.of(*each) for each in asked] == [NONE, NONE, MASQUERADE, ADDRESS]
    assert (says.addresses, says.at_backends("ip"), says.at_backends("ip6")) == (
        ("10.0.0.9",),
        [("10.0.0.4", ADDRESS)],
        [],
    )


def test_one_network_may_say_the_same_twice() -> None:
    assert len(service(snat_by_client=[PODS, PODS]).snat_by_client) == 2


def networks(bits: int) -> st.SearchStrategy[str]:
    """Most of them near each other, so that they lie in each other."""
    kind = ipaddress.IPv4Network if bits == 32 else ipaddress.IPv6Network
    return st.tuples(st.integers(0, 255), st.integers(bits - 8, bits)).map(
        lambda pair: str(kind((pair[0] >> (bits - pair[1]) << (bits - pair[1]), pair[1])))
    )


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(("ip", "ip6")))
def test_any_networks(data: st.DataObject, family: str) -> None:
    bits = 128 if family == "ip6" else 32
    answers = st.sampled_from((NONE, MASQUERADE, ADDRESS))
    chosen = data.draw(st.dictionaries(networks(bits), answers, max_size=12))
    rules = tuple(ClientSnat((network,), snat) for network, snat in chosen.items())
    found = [(ipaddress.ip_network(network), snat) for network, snat in by_network(rules, family)]
    kind = ipaddress.IPv6Address if bits == 128 else ipaddress.IPv4Address
    for number in range(257):
        having = [snat for network, snat in found if kind(number) in network]
        assert having == [snat for snat in [decisive(rules, str(kind(number)))] if snat]


# -- who else asks ---------------------------------------------------------------------------------------------------


def test_addresses_of_some_clients_are_ours_as_well() -> None:
    config = declared(snat_by_client=[{**PODS, "snat": "10.0.0.9"}])
    (warning,) = addresses.warnings(config, addresses.Addressing({"192.0.2.10"}, ["10.0.0.0/24"], []))
    assert warning.startswith("service s0: snat 10.0.0.9 is in the connected network 10.0.0.0/24, but no interface")
    routes = [(ipaddress.ip_network("0.0.0.0/0"), "eth0")]
    assert unclaimed(config, routes, [])["ip"].addresses == ("10.0.0.9", "192.0.2.10")


def test_who_hides_clients_is_told_where_some_are_to_be_seen() -> None:
    route = [(ipaddress.ip_network("0.0.0.0/0"), "eth0")]
    seen = [len(Traffic(config, route, set(), [])._seen) for config in (declared(), declared(snat_by_client=[]))]
    assert seen == [1, 0]


def test_iptables_may_meet_another_port_where_some_clients_are_seen() -> None:
    listen = {"listen": ["192.0.2.10:80-81", "192.0.2.11:80-81"], "backends": [{"address": "10.0.0.3", "port": "+9"}]}
    assert _may_meet_another_port(service(**listen))
    assert not _may_meet_another_port(service(**listen, snat_by_client=[{**PODS, "snat": "masquerade"}]))


def test_a_service_that_hides_some_clients_is_not_taken_over() -> None:
    keys: dict[str, Any] = {"method": "source_hash", "snat": "none"}
    for rules, whose in (([PODS], {"s0"}), ([{**PODS, "snat": "masquerade"}], set())):
        assert taking_over(declared(**keys, snat_by_client=rules).services) == whose
    own = [{"address": "10.0.0.3", "port": 80, "snat": "10.0.0.9"}]
    assert taking_over(declared(**keys, snat_by_client=[], backends=own).services) == set()
    # One that shows some clients keeps another from being sure whose a packet of the backend is.
    assert taking_over(declared(2, **keys).services) == set()
    shows, hides = {**keys, "snat_by_client": []}, {"snat": "masquerade", "method": "source_hash"}
    backends = [{"address": "10.0.0.3", "port": 80}]
    for rules, whose in (([], {"a"}), ([PODS], set())):
        pair = [
            {"name": "a", "listen": "192.0.2.10:80", "backends": backends, **shows},
            {"name": "b", "listen": "192.0.2.10:81", "backends": backends, **hides, "snat_by_client": rules},
        ]
        assert taking_over(parse_config(pair).services) == whose


# -- what the rules cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [nftables, iptables])
@pytest.mark.parametrize("keys", [{}, {"backends": [{"address": "10.0.0.3", "port": 80, "snat": "10.0.0.9"}]}], ids=str)
def test_services_with_the_same_answers_share_them(engine: Any, keys: dict[str, Any]) -> None:
    """Beside what each service has without them, all have one chain, and one map or tree."""
    around = Surroundings(connected=["10.0.0.0/24"])
    sizes = []
    for count in (1, 50):
        plain = engine.render(declared(count, snat_by_client=[]), around)
        sizes.append(len(engine.render(declared(count, **keys), around).keys() - plain.keys()))
    assert sizes[0] == sizes[1]


def test_a_packet_meets_no_more_rules_of_iptables_with_many_networks() -> None:
    """The longest way through the tree, in rules."""

    def longest(chains: dict[str, tuple[str, ...]], name: str) -> int:
        rules = chains[name]
        below = [longest(chains, rule.split(" -g ")[1]) for rule in rules if " -g " in rule]
        return len(rules) + max(below, default=0)

    ways = []
    for count in (8, 4096):
        nets = [f"10.{n >> 8}.{n & 255}.0/25" for n in range(count)]
        found = iptables.render(declared(snat_by_client=[{"networks": nets, "snat": "none"}]))
        chains = {key.name: section.body for key, section in found.items() if key.name.startswith("NATLB..by.")}
        ways.append(longest(chains, min(chains, key=len)))
    assert ways[1] <= 5 * ways[0], ways


def test_a_tree_of_backends_asks_for_the_destination() -> None:
    backends = [{"address": f"10.0.0.{n}", "port": 80, "snat": f"10.0.1.{n % 2}"} for n in range(1, 100)]
    found = iptables.render(declared(snat_by_client=[], backends=backends))
    rules = [rule for key, section in found.items() if key.name.startswith("NATLB..by.") for rule in section.body]
    blocks = [rule for rule in rules if " -g " in rule]
    assert blocks
    assert all(" -d " in rule and " -s " not in rule for rule in blocks)


def test_what_is_not_used_is_not_rendered() -> None:
    for engine in (nftables, iptables):
        text = str(engine.render(declared(snat_by_client=[])))
        assert not any(word in text for word in ("snat_client", "snat_backend", "source_nat_by", "NATLB..by"))


def test_services_of_two_interfaces_are_told_apart_by_their_answers() -> None:
    """Iptables marks connections of services that share packets and a backend, but not their source NAT."""
    backend = [{"address": "10.0.0.3", "port": 80}]
    one = {"name": "a", "listen": "192.0.2.10:80", "backends": backend, "snat_by_client": [PODS]}
    for two, marked in ((one, False), ({**one, "snat_by_client": []}, True)):
        config = parse_config([one, {**two, "name": "b", "interface": "eth1"}])
        assert ("-j MARK" in str(iptables.render(config))) == marked


@pytest.mark.parametrize(("given", "kind"), [("Masquerade", "masquerade"), (["none"], "none"), ("None", "none")])
def test_words_in_other_forms(given: Any, kind: str) -> None:
    declared = {"name": "web", "listen": "192.0.2.10:80", "backends": ["10.0.0.3"], "snat": given}
    assert parse_config([declared]).services[0].source_nat.usual.kind == kind


def test_a_word_that_is_none_of_them_is_told_which_there_are() -> None:
    declared = {"name": "web", "listen": "192.0.2.10:80", "backends": ["10.0.0.3"], "snat": "masq"}
    with pytest.raises(ConfigErrors, match=r"'masq' is not an IP address \(write masquerade, none, or one"):
        parse_config([declared])
