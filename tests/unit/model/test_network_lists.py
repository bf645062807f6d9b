# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of networks that are named once: what a declaration may say, and what the engines make of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import strategies
from _natlb.errors import ConfigErrors
from _natlb.iptables import render as iptables
from _natlb.model import network_lists, values
from _natlb.model.entities import Config, Service
from _natlb.model.services import parse_config
from _natlb.model.source_nat import by_network
from _natlb.nftables import render as nftables
from _natlb.nftables.delta import delta
from _natlb.packets import FAMILIES
from _natlb.ruleset.sections import Key, Ruleset
from hypothesis import given, settings
from hypothesis import strategies as st

LISTS = {"office": ["198.51.100.0/24", "2001:db8:7::/48"], "partners": "203.0.113.0/25, 203.0.113.128/25"}
WEB = {"name": "web", "listen": "192.0.2.10:80", "backends": [{"name": "one", "address": "10.0.0.3"}]}

NO_LIST = "is not a network, nor the name of a list of networks"
TWICE = "take it out of one of them: the longest prefix decides"
FORM = "write one such as 198.51.100.0/24 or 2001:db8::/32"
EIGHT = "n0, n1, n2, n3, n4, n5, n6, n7"


def read(networks: Any, *services: dict[str, Any]) -> Config:
    return parse_config(
        [{**WEB, "name": f"s{n}", "listen": f"192.0.2.{n}:80", **s} for n, s in enumerate(services, 1)],
        networks=networks,
    )


def refused(networks: Any, *services: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        read(networks, *services)
    return [str(error) for error in caught.value.errors]


@pytest.mark.parametrize(
    "given",
    [
        ["198.51.100.0/24", "203.0.113.9"],
        ["198.51.100.0/24", "203.0.113.9", "198.51.100.0/24"],
        "198.51.100.0/24, 203.0.113.9",
        "# office\n198.51.100.0/24 ; main, building\n\n  203.0.113.9\t# Ann\n#203.0.113.10\n",
        ["# office", "198.51.100.0/24 # a, b", "", "203.0.113.9, 198.51.100.0/24 ; SBL1"],
        ["# one file\n198.51.100.0/24\n", "\ufeff203.0.113.9\r\n# another file\r\n"],
        "\ufeff198.51.100.0/24\r\n203.0.113.9\r\n",
    ],
)
def test_the_forms_of_a_list(given: Any) -> None:
    assert read({"office": given}).networks == {"office": ("198.51.100.0/24", "203.0.113.9/32")}


def test_names_stand_for_the_networks_wherever_clients_are_named() -> None:
    (service,) = read(
        LISTS,
        {
            "allow_from": ["office", "192.0.2.7", "partners"],
            "deny_from": "198.51.100.128/25",
            "snat_by_client": [{"networks": ["partners", "192.0.2.8"], "snat": "none"}],
            "pins": [{"client": "partners", "backend": "one"}],
        },
    ).services
    partners = ("203.0.113.0/25", "203.0.113.128/25")
    assert service.allow_from == ("198.51.100.0/24", "2001:db8:7::/48", "192.0.2.7/32", *partners)
    assert service.snat_by_client[0].networks == (*partners, "192.0.2.8/32")
    assert service.pinned("ip") == [("203.0.113.0/24", service.backends[0])]


@pytest.mark.parametrize("key", ["snat_by_client", "pins"])
def test_a_list_may_have_networks_of_a_family_that_is_of_no_use_here(key: str) -> None:
    """Wherever it is named; one that has nothing else is an error."""
    lists = {**LISTS, "six": "2001:db8:7::/48"}

    def item(name: str) -> dict[str, Any]:
        return (
            {"networks": name, "snat": "masquerade"} if key == "snat_by_client" else {"client": name, "backend": "one"}
        )

    (service,) = read(lists, {key: [item("partners"), item("office")]}).services
    found = [network for network, _backend in service.pinned("ip")]
    if key == "snat_by_client":
        found = [network for network, _snat in by_network(service.snat_by_client, "ip")]
    assert found == ["198.51.100.0/24", "203.0.113.0/24"]
    assert service.pinned("ip6") == []
    (told,) = refused(lists, {key: [item("partners"), item("six")]})
    assert told.startswith(f"services[0].{key}[1].{'networks' if key == 'snat_by_client' else 'client'}: ")


SIX = {"name": "one-six", "address": "2001:db8:2::3"}
DUAL = {"listen": ["192.0.2.10:80", "[2001:db8:1::10]:80"], "backends": [*WEB["backends"], SIX]}
PINNED_TO_BOTH = [{"client": "office", "backend": name} for name in ("one", "one-six")]


def test_a_list_of_both_families_is_pinned_to_a_backend_of_each() -> None:
    (service,) = read(LISTS, {**DUAL, "pins": PINNED_TO_BOTH}).services
    assert service.pinned("ip") == [("198.51.100.0/24", service.backends[0])]
    assert service.pinned("ip6") == [("2001:db8:7::/48", service.backends[1])]
    (service,) = read(LISTS, {**DUAL, "pins": PINNED_TO_BOTH[1:]}).services
    assert service.pinned("ip") == [], "its clients of this family go where the method says"


@pytest.mark.parametrize(
    ("third", "network"),
    [
        ({"client": "office", "backend": "one"}, "198.51.100.0/24 stands at services[0].pins[0]"),
        ({"client": "office", "backend": "one-six"}, "2001:db8:7::/48 stands at services[0].pins[1]"),
        ({"client": "2001:db8:7::/48", "backend": "one-six"}, "2001:db8:7::/48 stands at services[0].pins[1]"),
    ],
)
def test_of_a_list_no_network_is_pinned_twice(third: dict[str, str], network: str) -> None:
    told = f"services[0].pins[2].client: {network} already (pin it once)"
    assert refused(LISTS, {**DUAL, "pins": [*PINNED_TO_BOTH, third]}) == [told]


def test_networks_of_a_list_that_are_of_no_use_to_a_pin_do_not_count() -> None:
    six = [f"2001:db8:{n:x}::/48" for n in range(4000)]
    lists = {"many": [*six, *(f"10.{n >> 8}.{n & 255}.0/24" for n in range(200))]}
    (service,) = read(lists, {"pins": [{"client": "many", "backend": "one"}]}).services
    assert service.pinned("ip6") == []


@pytest.mark.parametrize(
    ("networks", "service", "told"),
    [
        (
            LISTS,
            {"allow_from": "ofice"},
            f"services[0].allow_from: 'ofice' {NO_LIST} (did you mean office?)",
        ),
        (
            LISTS,
            {"deny_from": ["192.0.2.7", "Office"]},
            f"services[0].deny_from[1]: 'Office' {NO_LIST} (did you mean office?)",
        ),
        (
            LISTS,
            {"allow_from": "zzz"},
            f"services[0].allow_from: 'zzz' {NO_LIST} (lists of networks are office, partners)",
        ),
        (
            {f"n{n}": "192.0.2.1" for n in range(10)},
            {"allow_from": "zzz"},
            f"services[0].allow_from: 'zzz' {NO_LIST} (lists of networks are {EIGHT}, and 2 more)",
        ),
        (
            None,
            {"allow_from": "office"},
            f"services[0].allow_from: 'office' is not a network ({FORM}, or declare a list of that name in networks)",
        ),
        (
            LISTS,
            {"snat_by_client": [{"networks": "ofice", "snat": "none"}]},
            f"services[0].snat_by_client[0].networks: 'ofice' {NO_LIST} (did you mean office?)",
        ),
        (
            LISTS,
            {"pins": [{"client": "ofice", "backend": "one"}]},
            f"services[0].pins[0].client: 'ofice' {NO_LIST} (did you mean office?)",
        ),
        (5, {"allow_from": "office"}, "networks: 5 is not a mapping (write a list of networks for each name)"),
        (
            {"192.0.2.0/24": []},
            {},
            "networks: '192.0.2.0/24' reads as a network, so it cannot name a list (choose a name such as office)",
        ),
        (
            {"192.0.2.1/24": []},
            {},
            "networks: '192.0.2.1/24' reads as a network, so it cannot name a list (choose a name such as office)",
        ),
        (
            {"2001:db8::": []},
            {},
            "networks: '2001:db8::' reads as a network, so it cannot name a list (choose a name such as office)",
        ),
        (
            {"Office": "192.0.2.7"},
            {},
            "networks: 'Office' is not a name (use 1 to 63 of a-z, 0-9, _ and -, with a letter first)",
        ),
        ({7: "192.0.2.7"}, {}, "networks: 7 is not a name (use 1 to 63 of a-z, 0-9, _ and -, with a letter first)"),
        (
            {"office": []},
            {"allow_from": "office"},
            "networks.office: is empty (write at least one network; a file or a template may have come out empty)",
        ),
        (
            {"office": "# nobody\n\n"},
            {},
            "networks.office: is empty (write at least one network; a file or a template may have come out empty)",
        ),
        (
            {"office": None},
            {},
            "networks.office: has no value (write at least one network; a file or a template may have come out empty)",
        ),
        (
            {"office": ["192.0.2.7", None]},
            {},
            f"networks.office[1]: None is not a network ({FORM})",
        ),
        (
            {"office": "192.0.2.7\n192.0.2.1/24"},
            {"deny_from": "office"},
            "line 2 of networks.office: 192.0.2.1/24 has bits set behind its prefix (write 192.0.2.0/24)",
        ),
        (
            {"office": ["192.0.2.7", "# lost\n\n192.0.2.8, 192.0.2.1/24\n"]},
            {},
            "line 3 of networks.office[1]: 192.0.2.1/24 has bits set behind its prefix (write 192.0.2.0/24)",
        ),
        (
            {"office": "192.0.2.1/24\n"},
            {},
            "networks.office: 192.0.2.1/24 has bits set behind its prefix (write 192.0.2.0/24)",
        ),
        (
            {"a": "192.0.2.7", "b": "a"},
            {},
            f"networks.b: 'a' is not a network ({FORM})",
        ),
        (
            LISTS,
            {"allow_from": "office", "deny_from": ["office"]},
            f"services[0].deny_from: 198.51.100.0/24 stands in allow_from as well ({TWICE})",
        ),
    ],
)
def test_what_is_wrong_is_told_once_at_its_place(networks: Any, service: dict[str, Any], told: str) -> None:
    assert refused(networks, service) == [told]


def test_of_a_file_of_another_kind_some_lines_are_told() -> None:
    told = refused({"office": "\n".join(f"line {number}" for number in range(1000))})
    assert len(told) == 9
    assert told[-1] == "networks.office: 992 more items are wrong (write networks, one an item or a line)"


@pytest.mark.parametrize("key", ["snat_by_client", "pins"])
def test_networks_of_lists_count_against_the_limit(key: str) -> None:
    lists = {"many": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(4097)]}
    item = {"networks": "many", "snat": "none"} if key == "snat_by_client" else {"client": "many", "backend": "one"}
    (told,) = refused(lists, {key: [item]})
    assert "4097" in told
    assert "at most 4096 in one service" in told


def test_a_list_is_read_once_for_all_services(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counter[str]()
    original = values.network_text

    def network(value: Any, path: str) -> str:
        counted[value] += 1
        return original(value, path)

    monkeypatch.setattr(network_lists.values, "network_text", network)
    networks = [f"10.{n}.0.0/16" for n in range(200)]
    config = read({"many": networks}, *({"allow_from": "many"} for _unused in range(10)))
    assert set(counted.values()) == {1}
    assert len({id(service.allow_from) for service in config.services}) == 1


def test_the_same_source_nat_in_other_words_is_the_same() -> None:
    """Connections of these two cannot be told apart once they are on their way to the backend that both have."""
    by_client = [[{"networks": words, "snat": "none"}] for words in ("office", ["198.51.100.0/24", "2001:db8:7::/48"])]
    listens = ("*:80", "203.0.113.0/24:80")
    read(LISTS, *({"listen": each, "snat_by_client": rules} for each, rules in zip(listens, by_client, strict=True)))
    other = [{"listen": listens[0], "snat_by_client": by_client[0]}, {"listen": listens[1]}]
    (told,) = refused(LISTS, *other)
    assert "cannot be told apart" in told


def clients(service: Service) -> list[Any]:
    """All that a service says of its clients, by their networks."""
    return [
        (
            sorted(service.admission(family).networks) if service.admission(family) else None,
            sorted(by_network(service.snat_by_client, family)),
            sorted((network, backend.key) for network, backend in service.pinned(family)),
        )
        for family in FAMILIES
    ]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_lists_stand_for_their_networks(data: st.DataObject) -> None:
    declared = data.draw(strategies.services())
    naming, lists = data.draw(strategies.in_lists(declared))
    with_lists, plain = parse_config(naming, networks=lists), parse_config(declared)
    assert [*map(clients, with_lists.services)] == [*map(clients, plain.services)]
    for service, other in zip(with_lists.services, plain.services, strict=True):
        assert service.source_nat.answers == other.source_nat.answers


# -- what the engines make of it ---------------------------------------------------------------------------------------


def lists_of(ruleset: Ruleset) -> dict[str, list[str]]:
    """Sets of clients and chains of sources, with the networks in them."""
    return {
        key.name: list(section.body)
        for key, section in ruleset.items()
        if key.name.partition(".")[0] in ("allow", "deny", "networks")
        or key.name.startswith(("NATLB..only", "NATLB..all_but"))
    }


def test_services_with_one_list_alone_share_its_set() -> None:
    found = lists_of(
        nftables.render(
            read(
                LISTS,
                {"allow_from": "partners"},
                {"allow_from": ["partners"], "log": True},
                {"deny_from": "partners", "when_denied": "drop"},
                {"allow_from": ["partners", "192.0.2.7"]},
                {"allow_from": "partners", "deny_from": "203.0.113.9"},
                {"allow_from": "198.51.100.7"},
            )
        )
    )
    assert set(found) == {"networks.partners", "allow.s4", "allow.s5", "allow.s6"}
    assert found["networks.partners"] == ["203.0.113.0/24"]


def test_one_network_of_a_list_is_one_element_for_all_services() -> None:
    many = [f"10.{n}.0.0/17" for n in range(200)]
    services = [{"allow_from": "many"}, {"deny_from": "many"}]
    before, after = (nftables.render(read({"many": each}, *services)) for each in (many, many[1:]))
    assert delta(before, after, after) == ["delete element ip natlb networks.many { 10.0.0.0/17 }\n"]


def test_chains_of_a_list_are_shared() -> None:
    many = [f"10.{n}.0.0/17" for n in range(200)]
    services = [{"allow_from": "many"}, {"allow_from": "many", "max_connections_per_client": 5}, {"deny_from": "many"}]
    ruleset = iptables.render(read({"many": many}, *services))
    text = [line for section in ruleset.values() for line in section.body]
    assert sum("-s 10.7.0.0/17 " in line for line in text) == 2, "one tree of those admitted, one of those denied"
    for name, tree in (("s1", "only"), ("s2", "only"), ("s3", "all_but")):
        guard = ruleset[Key("ip", "nat", "chain", f"NATLB.{name}.guard")].body
        assert guard[0] == f"-A NATLB.{name}.guard -j NATLB..{tree}.many"
