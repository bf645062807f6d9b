# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change touches, and above all what it does not."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.nftables import delta, layout
from _natlb.nftables import render as nftables
from _natlb.nftables.text import full, remembered
from _natlb.ruleset.sections import Key, Ruleset, Section, unified

BACKENDS = [{"address": "10.0.0.3", "port": 8080}, {"address": "10.0.0.4", "port": 8080}]
V6 = [{"address": "2001:db8:2::3", "port": 8080}]
BOTH = {"listen": ["192.0.2.1:80", "[2001:db8::10]:80"], "backends": BACKENDS + V6}


def render(*services: dict[str, Any]) -> Ruleset:
    declared = [
        {"name": f"s{i}", "listen": f"192.0.2.{i}:80", "backends": BACKENDS, **service}
        for i, service in enumerate(services, 1)
    ]
    return nftables.render(parse_config(declared))


def texts(before: Ruleset, after: Ruleset) -> list[list[str]]:
    return [text.splitlines() for text in delta.delta(before, after, after)]


def test_a_new_family_is_a_table_more() -> None:
    before, after = render({}), render(BOTH)
    (added,) = texts(before, after)
    assert added[0] == "add table ip6 natlb"
    assert not [line for line in added if " ip natlb" in line]


def test_a_family_that_goes_is_a_table_less() -> None:
    """As a whole: nothing in it is deleted one by one."""
    assert texts(render(BOTH), render({})) == [["delete table ip6 natlb"]]


def test_a_declaration_that_differs_is_that_one_set_made_anew() -> None:
    after = render({"affinity": 60}, {"affinity": 60})
    key = Key("ip", "natlb", "set", "affinity.s1.10.0.0.3.8080")
    before = {**after, key: Section((*after[key].header, "timeout 1m"), ())}
    (switched,) = texts(before, after)
    chains = ["s.s1.tcp", "b.s1.tcp.10.0.0.3.8080"]
    assert {line.split()[-1] for line in switched if line.startswith("flush")} == set(chains)
    set_lines = [line for line in switched if " set " in line]
    assert set_lines == [
        f"delete set ip natlb {key[3]}",
        f"add set ip natlb {key[3]} {{ typeof ip saddr; size 65536; flags dynamic,timeout; }}",
    ]
    assert switched.index(set_lines[0]) > max(i for i, line in enumerate(switched) if line.startswith("flush"))
    for chain in chains:
        rules = [line.partition(f"{chain} ")[2] for line in switched if line.startswith(f"add rule ip natlb {chain} ")]
        assert rules == list(after["ip", "natlb", "chain", chain].body)


@pytest.mark.parametrize("key", ["max_connections_per_client", "new_connections_per_second"])
def test_another_limit_is_another_set(key: str) -> None:
    """Elements keep the limit that they were made with."""
    before, after = render({key: 5}), render({key: 2})
    gone, new = (
        [section for section in one if section[2] == "set" and section not in other]
        for one, other in ((before, after), (after, before))
    )
    assert [name.rpartition("/")[2] for _f, _t, _k, name in gone] == ["5"]
    assert [name.rpartition("/")[2] for _f, _t, _k, name in new] == ["2"]


def test_another_affinity_time_leaves_the_sets_alone() -> None:
    (switched,) = texts(render({"affinity": 60}), render({"affinity": 90}))
    assert not [line for line in switched if " set " in line or " element " in line]


@pytest.mark.parametrize("key", ["allow_from", "deny_from"])
def test_one_network_of_many_is_one_element(key: str) -> None:
    networks = [f"10.{i >> 8}.{i & 255}.0/25" for i in range(5000)]
    name = f"ip natlb {key.partition('_')[0]}.s1"
    whole, less = render({key: networks}), render({key: networks[1:]})
    assert texts(whole, less) == [[f"delete element {name} {{ 10.0.0.0/25 }}"]]
    assert texts(less, whole) == [[f"add element {name} {{ 10.0.0.0/25 }}"]]
    # What it makes one network together with another one.
    wider = [[f"delete element {name} {{ 10.0.0.0/25 }}", f"add element {name} {{ 10.0.0.0/24 }}"]]
    assert texts(whole, render({key: [*networks, "10.0.0.128/25"]})) == wider


def test_half_of_many_networks_empties_their_set_and_fills_it() -> None:
    """nft 1.0.6 takes a quarter of a second for each network that is to leave a list of 100,000. A set that was deleted
    instead would refuse clients whose packet is at the rule of before."""
    networks = [f"10.{i >> 8}.{i & 255}.0/25" for i in range(5000)]
    ((emptied, filled),) = texts(render({"allow_from": networks}), render({"allow_from": networks[2500:]}))
    assert emptied == "flush set ip natlb allow.s1"
    assert filled.startswith("add element ip natlb allow.s1 { ")
    assert filled.count("/25") == 2500


def test_the_diff_of_a_list_shows_what_differs() -> None:
    networks = [f"10.{i}.0.0/24" for i in range(200)]
    lines = unified(render({"allow_from": networks}), render({"allow_from": networks[1:]})).splitlines()
    assert "-10.0.0.0/24" in lines
    assert not [line for line in lines if line.startswith("+10.")]
    assert lines[0] == "--- ip natlb set allow.s1"
    assert lines[1] == "+++ ip natlb set allow.s1"


def test_a_list_that_goes_is_deleted_as_a_whole() -> None:
    for transaction in texts(render({"allow_from": ["10.0.0.0/24", "10.2.0.0/24"]}), render({})):
        assert not [line for line in transaction if line.startswith("delete element")]


def test_a_slot_map_that_goes_is_deleted_as_a_whole() -> None:
    tcp: dict[str, Any] = {"method": "source_hash"}
    (added, _switched, removed) = texts(render({**tcp}), render({**tcp, "protocol": "udp"}))
    assert not [line for line in removed if " element " in line]
    assert "delete map ip natlb slot_tcp" in removed
    assert "add map ip natlb slot_udp" in "\n".join(added)


def test_most_of_a_map_of_ranges_is_made_anew() -> None:
    """Each element that goes costs a walk over the others."""
    many = [{"name": f"r{i}", "listen": f"198.18.{i >> 8}.{i & 255}:80-81"} for i in range(3000)]
    before, after = render(*many), render(many[0])
    (_added, *later) = [[], *texts(before, after)]
    switched = next(lines for lines in later if "delete map ip natlb service_range" in lines)
    assert "flush chain ip natlb prerouting" in switched
    assert not [line for line in switched if line.startswith("delete element ip natlb service_range")]
    few = texts(before, render(*many[:-1]))
    assert any(line.startswith("delete element ip natlb service_range") for lines in few for line in lines)


LISTING = """table ip natlb {
\tset affinity.s1.10.0.0.3.8080 {
\t\ttypeof ip saddr
\t\tsize 65536
\t\tflags dynamic,timeout
\t\telements = { 198.51.100.7 timeout 1m expires 3s100ms, 198.51.100.8 timeout 1m expires 30s,
\t\t\t     198.51.100.9 timeout 1m expires 40s }
\t}

\tset affinity.gone.10.0.0.3.8080 {
\t\ttypeof ip saddr
\t\tflags dynamic,timeout
\t\telements = { 198.51.100.7 timeout 1m expires 3s100ms }
\t}
}
"""


def test_what_affinity_has_learned_goes_along_where_the_tables_are_replaced() -> None:
    text = full(render({"affinity": 60})) + remembered(render({"affinity": 60}), LISTING)
    assert text.splitlines()[-1] == (
        "add element ip natlb affinity.s1.10.0.0.3.8080 { 198.51.100.7 timeout 1m expires 3s100ms, "
        "198.51.100.8 timeout 1m expires 30s, 198.51.100.9 timeout 1m expires 40s }"
    )
    assert "affinity.gone" not in text


def test_large_tables_are_spread_over_maps() -> None:
    backends = [{"address": f"10.0.0.{i}", "weight": 255 + i % 2} for i in range(8)]
    services = [{"method": "random", "listen": f"192.0.2.1:{port}", "backends": backends} for port in range(1, 101)]
    ruleset = render(*services)
    sizes = [len(section.body) for key, section in ruleset.items() if key[3].startswith("slot_tcp")]
    assert sum(sizes) == 100 * 2044
    assert len(sizes) == 8
    assert max(sizes) < 2 * layout.SLOTS_PER_MAP


def test_chains_that_ranges_led_to_are_emptied_afterwards() -> None:
    """With the set that they look up, and the chains behind them; each is deleted once nothing names it."""
    outer = {"listen": "*:9000-9003"}
    inner = {"listen": "*:9002", "allow_from": ["198.51.100.0/24"]}
    switched, emptied, removed = texts(render(outer, inner), render(outer))
    gone = ["b.s2.tcp.10.0.0.3.8080", "b.s2.tcp.10.0.0.4.8080", "refuse", "s.s2.tcp"]
    assert any(
        line.startswith("delete element ip natlb node ") and "6 . 9002 : goto s.s2.tcp" in line for line in switched
    )
    assert not [line for line in switched if "s2" in line and not line.startswith("delete element")]
    assert emptied == [f"flush chain ip natlb {name}" for name in gone]
    assert sorted(line.split()[-1] for line in removed if line.startswith("delete chain")) == gone
    assert "delete set ip natlb allow.s2" in removed


def test_a_chain_that_one_port_led_to_is_emptied_at_once() -> None:
    """A packet of the new generation finds no element of the old one in a map without intervals."""
    switched, removed = texts(render({}, {}), render({}))
    assert "flush chain ip natlb s.s2.tcp" in switched
    assert removed[-1] == "delete chain ip natlb s.s2.tcp"
