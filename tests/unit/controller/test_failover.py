# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual addresses over several balancers: what is refused, and what keepalived is to run on each host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from ansible.plugins.action import ActionBase
from ansible_collections.natlb.netfilter.plugins.action import validate_declaration as plugin
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigError
from ansible_collections.natlb.netfilter.plugins.plugin_utils import failover, state_sync
from ansible_collections.natlb.netfilter.plugins.plugin_utils.failover import ADDRESSES, PEER_ADDRESS, Fleet

ONE = {"addresses": ["192.0.2.10/24"], "interface": "eth0", "router_id": 51}
TWO = {"addresses": ["192.0.2.11/24"], "interface": "eth0", "router_id": 52, "primary": "lb2"}
BEHIND = {**ONE, "gateways": ["10.0.0.1/24"], "gateway_interface": "eth1"}
BOTH = {**ONE, "addresses": ["192.0.2.10/24", "2001:db8:1::10/64"]}
SYNC = state_sync.SYNC_ADDRESS


def fleet(declared: Any, *, unicast: bool = True, **others: Any) -> Fleet:
    """Three hosts with the same declaration, but for `others`."""
    hosts = {f"lb{n}": {ADDRESSES: declared, "ansible_host": f"192.0.2.{n}"} for n in (1, 2, 3)}
    for name, values in others.items():
        hosts[name] = {**hosts.get(name, {}), **values}
    return Fleet(["lb1", "lb2", "lb3"], hosts, unicast)


def told(declared: Any, among: Fleet | None = None, everybody: tuple[str, ...] = ()) -> list[str]:
    return failover.problems(declared, "lb1", "balancers", among or fleet(declared), everybody)


@pytest.mark.parametrize(
    "declared",
    [
        [ONE],
        [ONE, TWO],
        [{**ONE, "addresses": "192.0.2.10/24"}],
        [{**ONE, "router_id": "51", "track_interfaces": "eth1"}],
        [BEHIND],
        [{**BEHIND, "gateways": "10.0.0.1/24"}, {**TWO, "gateways": ["10.0.0.2/24"], "gateway_interface": "eth1"}],
    ],
)
def test_what_is_right_is_right(declared: Any) -> None:
    assert told(declared) == []


@pytest.mark.parametrize(
    ("declared", "begins"),
    [
        ("192.0.2.10/24", f"{ADDRESSES}: "),
        ([], f"{ADDRESSES}: is empty"),
        (["192.0.2.10/24"], f"{ADDRESSES}[0]: '192.0.2.10/24' is not a mapping"),
        ([{}], f"{ADDRESSES}[0].addresses: is missing"),
        ([{**ONE, "addresses": []}], f"{ADDRESSES}[0].addresses: is empty"),
        ([{**ONE, "addresses": None}], f"{ADDRESSES}[0].addresses: has no value"),
        ([{**ONE, "addresses": ["192.0.2.10"]}], f"{ADDRESSES}[0].addresses[0]: 192.0.2.10 has no prefix"),
        ([{**ONE, "addresses": ["192.0.2.10/33"]}], f"{ADDRESSES}[0].addresses[0]: '192.0.2.10/33'"),
        (
            [{**ONE, "addresses": ["192.0.2.10/0"]}],
            f"{ADDRESSES}[0].addresses[0]: 192.0.2.10/0 says that every address",
        ),
        ([{**ONE, "addresses": ["2001:db8::9/0"]}], f"{ADDRESSES}[0].addresses[0]: 2001:db8::9/0 says that"),
        ([{**ONE, "addresses": ["192.0.2.0/24"]}], f"{ADDRESSES}[0].addresses[0]: 192.0.2.0/24 is a network"),
        ([{**ONE, "addresses": ["web/24"]}], f"{ADDRESSES}[0].addresses[0]: 'web' is not"),
        ([{**ONE, "addresses": ["127.0.0.1/8"]}], f"{ADDRESSES}[0].addresses[0]: "),
        ([{**ONE, "router_id": 0}], f"{ADDRESSES}[0].router_id: 0 is not a router ID (1-255)"),
        ([{**ONE, "router_id": 256}], f"{ADDRESSES}[0].router_id: 256 is not a router ID"),
        ([{**ONE, "interface": "eth0@if3"}], f"{ADDRESSES}[0].interface: "),
        ([{**ONE, "track_interfaces": ["a b"]}], f"{ADDRESSES}[0].track_interfaces[0]: "),
        ([{**ONE, "gateways": ["10.0.0.1/24"]}], f"{ADDRESSES}[0].gateway_interface: is missing (gateways and"),
        ([{**ONE, "gateway_interface": "eth1"}], f"{ADDRESSES}[0].gateways: is missing (gateways and their interface"),
        ([{**BEHIND, "gateways": ["10.0.0.1"]}], f"{ADDRESSES}[0].gateways[0]: 10.0.0.1 has no prefix"),
        (
            [{**BEHIND, "gateways": ["2001:db8:2::1/64"]}],
            f"{ADDRESSES}[0].gateways: 2001:db8:2::1/64 has no address of",
        ),
        ([{**BEHIND, "gateway_interface": "eth0"}], f"{ADDRESSES}[0].gateway_interface: eth0 is that of the addresses"),
        ([{**BEHIND, "gateway_interface": "a b"}], f"{ADDRESSES}[0].gateway_interface: 'a b' is not the name"),
        ([BEHIND, {**BEHIND, **TWO}], f"{ADDRESSES}[1].gateways: 10.0.0.1 is in {ADDRESSES}[0] already"),
        ([{**ONE, "prority": 5}], f"{ADDRESSES}[0].prority: no such key"),
        ([{**ONE, "primary": "lb9"}], f"{ADDRESSES}[0].primary: lb9 is not in the group balancers"),
        ([ONE, {**TWO, "router_id": 51}], f"{ADDRESSES}[1].router_id: 51 is that of {ADDRESSES}[0] on eth0 already"),
        ([ONE, {**ONE, "router_id": 52}], f"{ADDRESSES}[1].addresses: 192.0.2.10 is in {ADDRESSES}[0] already"),
    ],
)
def test_what_is_wrong_is_told(declared: Any, begins: str) -> None:
    found = told(declared)
    assert found, declared
    assert found[0].startswith(begins)
    assert found[0].endswith(")")


def test_all_of_it_is_told_at_once() -> None:
    wrong = [{**ONE, "addresses": ["192.0.2.10"], "router_id": 0}, {"interface": ""}]
    assert [line.partition(":")[0].removeprefix(ADDRESSES) for line in told(wrong)] == [
        "[0].addresses[0]",
        "[0].router_id",
        "[1].addresses",
        "[1].router_id",
        "[1].interface",
    ]


@pytest.mark.parametrize(
    ("hosts", "begins"),
    [
        ([], "natlb_failover_group: the inventory has no group balancers"),
        (["lb2", "lb3"], "natlb_failover_group: lb1 is not in the group"),
        (["lb1"], "natlb_failover_group: balancers has no other host than lb1"),
        ([f"lb{n}" for n in range(1, 30)], "natlb_failover_group: balancers has 29 hosts (at most 25"),
    ],
)
def test_the_group_is_one_that_can_share(hosts: list[str], begins: str) -> None:
    (found,) = told([ONE], fleet([ONE])._replace(hosts=hosts))
    assert found.startswith(begins)


@pytest.mark.parametrize(
    "theirs",
    [
        [],
        [{**ONE, "addresses": ["192.0.2.99/24"]}],
        [{**ONE, "primary": "lb2"}],
        [{**ONE, "router_id": 9}],
        [BEHIND],
    ],
)
def test_hosts_that_do_not_agree(theirs: Any) -> None:
    (found,) = told([ONE], fleet([ONE], lb2={ADDRESSES: theirs}))
    assert found.startswith(f"{ADDRESSES}[0]: lb2 declares router ID 51 with other addresses")


def test_hosts_may_call_their_interfaces_differently() -> None:
    assert told([ONE], fleet([ONE], lb2={ADDRESSES: [{**ONE, "interface": "ens3"}]})) == []


@pytest.mark.parametrize(
    ("theirs", "clashes"),
    [
        ({**ONE, "addresses": ["192.0.2.99/24"]}, True),
        ({**ONE, "addresses": ["198.51.100.9/24"]}, False),
        ({**ONE, "addresses": ["192.0.2.99/24"], "router_id": 60}, False),
        ({**ONE, "addresses": ["2001:db8:1::99/64"]}, False),
    ],
)
def test_router_ids_of_other_groups(theirs: dict[str, Any], clashes: bool) -> None:
    among = fleet([ONE], gw1={ADDRESSES: [theirs]})
    assert told([ONE], among) == [], "whoever is not the first looks at its own group alone"
    found = told([ONE], among, ("lb1", "lb2", "lb3", "gw1"))
    assert [
        line.startswith(f"{ADDRESSES}[0].router_id: gw1 uses 51 for {theirs['addresses'][0]}") for line in found
    ] == ([True] * clashes)


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, None),
        ({"ansible_host": "lb1.example.com"}, None),
        ({"ansible_host": "192.0.2.2"}, "192.0.2.2"),
        ({"ansible_host": "192.0.2.10"}, None),
        ({"ansible_host": "203.0.113.2"}, None),
        ({"ansible_host": "203.0.113.2", PEER_ADDRESS: "203.0.113.2"}, "203.0.113.2"),
        ({"ansible_host": "192.0.2.2", PEER_ADDRESS: ["2001:db8:1::2", "192.0.2.7"]}, "192.0.2.7"),
        ({"ansible_facts": {"eth0": {"ipv4": {"address": "192.0.2.4"}}}, "ansible_host": "192.0.2.2"}, "192.0.2.4"),
        ({"ansible_facts": {"eth0": {"ipv4": {"address": "10.0.0.4"}}}}, None),
    ],
)
def test_where_others_find_a_host(variables: dict[str, Any], address: str | None) -> None:
    (item,) = failover.declared([ONE])
    found = failover.peer_address(item, 4, variables)
    assert (None if found is None else str(found)) == address


def test_a_host_that_others_cannot_find() -> None:
    """They speak by one family, also about addresses of the other one."""
    six = {**BOTH, "addresses": ["2001:db8:1::10/64"]}
    nowhere = fleet([six])
    found = told([six], nowhere)
    assert [line.split()[1] for line in found] == ["lb1", "lb2", "lb3"]
    assert found[0].startswith(f"{PEER_ADDRESS}: lb1 has no known IPv6 address in the network of 2001:db8:1::10/64 (")
    assert told([six], nowhere._replace(unicast=False)) == []
    facts = {"ansible_facts": {"eth0": {"ipv6": [{"address": "fe80::1"}, {"address": "2001:db8:1::7"}]}}}
    assert told([six], fleet([six], lb1=facts, lb2=facts, lb3=facts)) == []
    assert told([BOTH], fleet([BOTH])) == []


def test_what_each_host_runs() -> None:
    among = fleet([ONE, TWO])
    runs = {name: failover.instances([ONE, TWO], name, among) for name in among.hosts}
    assert {name: [item["priority"] for item in found] for name, found in runs.items()} == {
        "lb1": [250, 230],
        "lb2": [240, 250],
        "lb3": [230, 240],
    }
    assert runs["lb2"][0] == {
        "name": "natlb_51_eth0_ipv4",
        "interface": "eth0",
        "router_id": 51,
        "priority": 240,
        "addresses": ["192.0.2.10/24"],
        "along": [],
        "track_interfaces": [],
        "source": "192.0.2.2",
        "peers": ["192.0.2.1", "192.0.2.3"],
    }


def test_families_are_one_instance_that_speaks_for_both() -> None:
    (found,) = failover.instances([BOTH], "lb1", fleet([BOTH], unicast=False))
    assert (found["name"], found["addresses"]) == ("natlb_51_eth0_ipv4", ["192.0.2.10/24"])
    assert found["along"] == [{"address": "2001:db8:1::10/64", "interface": "eth0"}]
    assert "peers" not in found
    six = {**BOTH, "addresses": ["2001:db8:1::10/64"]}
    (found,) = failover.instances([six], "lb1", fleet([six], unicast=False))
    assert (found["name"], found["addresses"], found["along"]) == ("natlb_51_eth0_ipv6", ["2001:db8:1::10/64"], [])


def test_gateways_move_along_on_their_interface() -> None:
    behind = {**BOTH, "gateways": ["2001:db8:2::1/64"], "gateway_interface": "eth1", "track_interfaces": ["eth2"]}
    (found,) = failover.instances([behind], "lb1", fleet([behind], unicast=False))
    assert found["along"] == [
        {"address": "2001:db8:1::10/64", "interface": "eth0"},
        {"address": "2001:db8:2::1/64", "interface": "eth1"},
    ]
    assert found["track_interfaces"] == ["eth2", "eth1"]
    named = {**behind, "track_interfaces": ["eth1", "eth2"]}
    assert failover.instances([named], "lb1", fleet([named], unicast=False))[0]["track_interfaces"] == ["eth1", "eth2"]


def test_a_gateway_outside_the_network_of_its_interface() -> None:
    links = [
        {"ifname": "eth0", "addr_info": [{"local": "192.0.2.2", "prefixlen": 24}]},
        {"ifname": "eth1", "addr_info": [{"local": "10.0.1.2", "prefixlen": 24}]},
    ]
    (found,) = failover.outside([BEHIND], links)
    assert found.startswith(f"{ADDRESSES}[0].gateways: 10.0.0.1/24 is in no network of eth1 (10.0.1.0/24), so")


def test_an_address_outside_the_network_of_its_interface() -> None:
    def link(*addresses: str) -> list[dict[str, Any]]:
        parts = [address.split("/") for address in addresses]
        return [{"ifname": "eth0", "addr_info": [{"local": one, "prefixlen": int(n)} for one, n in parts]}]

    assert failover.outside([ONE], link("192.0.2.2/24", "fe80::1/64")) == []
    assert failover.outside([ONE], link("192.0.2.2/24", "192.0.2.10/24")) == []
    (found,) = failover.outside([ONE], link("203.0.113.2/24"))
    assert found.startswith(f"{ADDRESSES}[0].addresses: 192.0.2.10/24 is in no network of eth0 (203.0.113.0/24), so")
    # Only the address itself is there, on the host that has it now.
    assert "it has no address of its own" in failover.outside([ONE], link("192.0.2.10/32"))[0]


def test_replies_that_may_go_to_the_former_balancer() -> None:
    def told(item: dict[str, Any], **keys: Any) -> list[str]:
        service = {"name": "web", "listen": ["192.0.2.10:80"], "snat": "none", **keys}
        return failover.without_a_way_back([item], [service])

    (found,) = told(ONE)
    assert found.startswith(f"{ADDRESSES}[0]: web has snat: none, and no gateway moves along with the address, so")
    assert told(ONE, listen="192.0.2.10:80", snat="None") == [found]
    assert told(BEHIND) == []
    assert told(ONE, snat="masquerade") == []
    assert told(ONE, snat=None) == []
    assert told(ONE, listen="192.0.2.99:80") == []
    assert told({**ONE, "addresses": ["192.0.2.10/24", "192.0.2.1/24"]}) == [], "the second one may be the gateway"


def problems(given: dict[str, Any], name: str = "lb1") -> list[str]:
    """What the action says of a host with these variables, and of its play."""
    action = plugin.ActionModule.__new__(plugin.ActionModule)
    action._task = SimpleNamespace(args={"role": "failover"})
    action._templar = SimpleNamespace(template=lambda value: value)
    hostvars = fleet([ONE]).hostvars
    around = {"groups": {"balancers": ["lb1", "lb2", "lb3"]}, "hostvars": hostvars, "inventory_hostname": name}
    with mock.patch.object(ActionBase, "run", return_value={}):
        result = action.run(task_vars={"natlb_failover_group": "balancers", **around, **given})
    return str(result.get("msg", "")).splitlines()


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        ({}, [f"{ADDRESSES}: is not set for this host"]),
        ({ADDRESSES: [ONE]}, []),
        (
            {ADDRESSES: [ONE], "natlb_failover_adresses": [], "natlb_failover_advert_interval": 90},
            ["natlb_failover_ad"] * 2,
        ),
        ({ADDRESSES: [ONE], "natlb_failover_check_interval": 0}, ["natlb_failover_check_interval: 0 is not"]),
        ({ADDRESSES: [ONE], PEER_ADDRESS: "lb1"}, [f"{PEER_ADDRESS}"]),
        ({ADDRESSES: [ONE], "natlb_failover_preempt": None}, ["natlb_failover_preempt: has no value"]),
        ({ADDRESSES: [ONE], "natlb_failover_sync": "true"}, ["natlb_failover_sync: balancers has 3 hosts"]),
        ({ADDRESSES: [ONE], SYNC: "lb1"}, [f"{SYNC}: 'lb1' is not"]),
        ({ADDRESSES: None}, [f"{ADDRESSES}: has no value", f"{ADDRESSES}: "]),
        ({"natlb_failover_state": "absent"}, []),
    ],
)
def test_the_action_checks_all_variables(given: dict[str, Any], begins: list[str]) -> None:
    found = problems(given)
    assert len(found) == len(begins), found
    for line, beginning in zip(found, begins, strict=True):
        assert line.startswith(beginning)


def pair(**others: Any) -> Fleet:
    """Two hosts that copy, but for `others`."""
    copying = {name: {state_sync.SYNC: True, **others.get(name, {})} for name in ("lb1", "lb2")}
    return fleet([BOTH], unicast=False, **copying)._replace(hosts=["lb1", "lb2"])


@pytest.mark.parametrize(
    ("among", "begins"),
    [
        (pair(), []),
        (pair(lb1={SYNC: "198.51.100.1"}, lb2={SYNC: "198.51.100.2"}), []),
        (pair(lb1={SYNC: "2001:db8:9::1"}, lb2={SYNC: "2001:db8:9::2"}), []),
        (
            pair(lb1={SYNC: "198.51.100.1"}, lb2={SYNC: "2001:db8:9::2"}),
            [f"{SYNC}: lb1 has 198.51.100.1, lb2 has 2001"],
        ),
        (pair(lb1={SYNC: "198.51.100.1"}, lb2={SYNC: "198.51.100.1"}), [f"{SYNC}: lb1 and lb2 both have 198.51.100.1"]),
        (pair(lb1={SYNC: "192.0.2.10"}), [f"{SYNC}: 192.0.2.10 is a virtual address"]),
        (pair(lb2={"ansible_host": "lb2.example.com"}), [f"{SYNC}: lb2 has no known address"]),
        (pair(lb2={state_sync.SYNC: "yes"}), []),
        *(
            (pair(lb2={state_sync.SYNC: off}), [f"{state_sync.SYNC}: lb1 has it, and lb2 has not"])
            for off in (False, "no", None)
        ),
        (pair(lb2={SYNC: "lb2"}), [f"{SYNC}: lb2 has no known address"]),
        (fleet([BOTH]), [f"{state_sync.SYNC}: balancers has 3 hosts, and connections are copied between two"]),
    ],
)
def test_what_copies_of_connections_need(among: Fleet, begins: list[str]) -> None:
    found = state_sync.problems([BOTH], "lb1", "balancers", among)
    assert len(found) == len(begins), found
    assert all(line.startswith(begin) and line.endswith(")") for line, begin in zip(found, begins, strict=True))


def test_a_wrong_declaration_is_told_once() -> None:
    assert state_sync.problems([{}], "lb1", "balancers", pair()) == []


def test_a_host_outside_the_group_is_told_once() -> None:
    assert state_sync.problems([BOTH], "lb3", "balancers", pair()) == []
    with pytest.raises(ConfigError, match="lb3 is not one of two hosts"):
        state_sync.settings([BOTH], "lb3", pair(), [])


def test_what_conntrackd_is_told() -> None:
    fixed, lease = {"scope": "global"}, {"scope": "global", "dynamic": True}
    links = [
        {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "scope": "host"}]},
        {"ifname": "eth0", "addr_info": [{"local": "192.0.2.1", **lease}, {"local": "192.0.2.10", **fixed}]},
        {"ifname": "eth1", "addr_info": [{"local": "10.0.0.1", **fixed}, {"local": "fe80::1", "scope": "link"}]},
        {"ifname": "eth2", "addr_info": [{"local": "198.51.100.7", **lease}]},
        {"ifname": "eth3"},
    ]
    told = state_sync.settings([BOTH], "lb1", pair(), links)
    assert told == {
        "family": "IPv4",
        "source": "192.0.2.1",
        "peer": "192.0.2.2",
        "interface": "eth0",
        "ignored": ["127.0.0.0/8", "::1", "192.0.2.1", "192.0.2.2", "10.0.0.1"],
        "virtual": ["192.0.2.10", "2001:db8:1::10"],
    }
    apart = pair(lb1={SYNC: "2001:db8:9::1"}, lb2={SYNC: "2001:db8:9::2"})
    told = state_sync.settings([BOTH], "lb1", apart, links)
    assert (told["family"], told["source"], told["interface"]) == ("IPv6", "2001:db8:9::1", "")
