# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that turn an inventory and address ranges into backends."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.natlb.netfilter.plugins.filter import to_addresses as hosts_plugin
from ansible_collections.natlb.netfilter.plugins.filter import to_backends as backends_plugin

backends = backends_plugin.FilterModule().filters()["to_backends"]
hosts = hosts_plugin.FilterModule().filters()["to_addresses"]


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("10.0.0.3", ["10.0.0.3"]),
        (" 10.0.0.3 ", ["10.0.0.3"]),
        ("10.0.0.3-10.0.0.6", ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]),
        ("10.0.0.3 - 10.0.0.4", ["10.0.0.3", "10.0.0.4"]),
        ("10.0.0.3-5", ["10.0.0.3", "10.0.0.4", "10.0.0.5"]),
        ("10.0.0.255-10.0.1.1", ["10.0.0.255", "10.0.1.0", "10.0.1.1"]),
        ("10.0.0.3-10.0.0.3", ["10.0.0.3"]),
        ("10.0.0.0/30", ["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.0/255.255.255.252", ["10.0.0.1", "10.0.0.2"]),
        ("10.0.0.4/31", ["10.0.0.4", "10.0.0.5"]),
        ("10.0.0.4/32", ["10.0.0.4"]),
        ("2001:db8::a-2001:db8::c", ["2001:db8::a", "2001:db8::b", "2001:db8::c"]),
        ("2001:db8::/126", ["2001:db8::1", "2001:db8::2", "2001:db8::3"]),
        ("2001:db8::4/127", ["2001:db8::4", "2001:db8::5"]),
        ("2001:DB8:0::1", ["2001:db8::1"]),
        (["10.0.0.3", "10.0.0.2-10.0.0.4", "2001:db8::1"], ["10.0.0.3", "10.0.0.2", "10.0.0.4", "2001:db8::1"]),
        ([], []),
    ],
)
def test_hosts(value: Any, result: list[str]) -> None:
    assert hosts(value) == result


def test_hosts_holds_a_whole_16_network() -> None:
    assert len(hosts("10.1.0.0/16")) == 65534
    assert len(hosts("10.0.0.0-10.0.255.255")) == hosts_plugin.MAX_ADDRESSES


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("10.0.0.0/15", "10.0.0.0/15 makes more than 65536 addresses"),
        ("2001:db8::/64", "2001:db8::/64 makes more than 65536 addresses"),
        ("0.0.0.0-255.255.255.255", "makes more than 65536 addresses"),
        (["10.0.0.0-10.0.255.255", "10.1.0.0"], "10.1.0.0 makes more than 65536 addresses"),
        ("10.0.0.6-10.0.0.3", "10.0.0.6-10.0.0.3 ends before it begins (write 10.0.0.3-10.0.0.6)"),
        ("10.0.0.6-3", "10.0.0.6-3 ends before it begins"),
        ("10.0.0.3-2001:db8::1", "mixes IPv4 and IPv6"),
        ("10.0.0.3/24", "10.0.0.3/24 has bits set behind its prefix (write 10.0.0.0/24)"),
        ("10.0.0.0/33", "10.0.0.0/33 is not a network"),
        ("10.0.0.0/", "10.0.0.0/ is not a network"),
        ("10/8", "'10' in '10/8' is not an address"),
        ("web_1", "'web_1' in 'web_1' is not an address"),
        ("10.0.0.300", "'10.0.0.300' in '10.0.0.300' is not an address"),
        ("10.0.0.3-", "'' in '10.0.0.3-' is not an address"),
        ("", "'' in '' is not an address"),
        (7, "7 is not a text"),
        ([None], "None is not a text"),
        ({"a": 1}, "{'a': 1} is not a text"),
    ],
)
def test_hosts_refuses(value: Any, message: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        hosts(value)
    assert message in str(caught.value)


FACTS = {"default_ipv4": {"address": "10.0.0.9"}, "default_ipv6": {"address": "2001:db8::9"}}


@pytest.mark.parametrize(
    ("variables", "arguments", "address"),
    [
        ({"natlb_address": "10.0.0.3", "ansible_host": "10.0.0.4", "ansible_facts": FACTS}, {}, "10.0.0.3"),
        ({"ansible_host": "10.0.0.4", "ansible_facts": FACTS}, {}, "10.0.0.4"),
        ({"ansible_host": "web1.example.org", "ansible_facts": FACTS}, {}, "10.0.0.9"),
        ({"ansible_facts": FACTS}, {}, "10.0.0.9"),
        ({"ansible_facts": FACTS}, {"family": "ipv6"}, "2001:db8::9"),
        ({"ansible_facts": {"default_ipv4": {}, "default_ipv6": FACTS["default_ipv6"]}}, {}, "2001:db8::9"),
        ({"ansible_host": "10.0.0.4", "ansible_facts": FACTS}, {"family": "ipv6"}, "2001:db8::9"),
        ({"natlb_address": ["2001:db8::3", "10.0.0.3"]}, {}, "10.0.0.3"),
        ({"natlb_address": ["2001:db8::3", "10.0.0.3"]}, {"family": "ipv6"}, "2001:db8::3"),
        ({"natlb_address": "2001:DB8:0::3"}, {}, "2001:db8::3"),
        ({"natlb_address": "10.0.0.3", "ansible_facts": FACTS}, {"family": "ipv6"}, "2001:db8::9"),
        ({"back": "10.1.0.3", "natlb_address": "10.0.0.3"}, {"address_var": "back"}, "10.1.0.3"),
        ({"ansible_host": None, "ansible_facts": None, "natlb_address": "10.0.0.3"}, {}, "10.0.0.3"),
    ],
)
def test_where_the_address_comes_from(variables: dict[str, Any], arguments: dict[str, Any], address: str) -> None:
    assert backends(["web1"], {"web1": variables}, **arguments) == [{"name": "web1", "address": address}]


def test_backends_keep_the_order_and_take_what_is_set() -> None:
    hostvars = {
        "web1": {"natlb_address": "10.0.0.3", "natlb_weight": 3, "natlb_backup": False, "natlb_max_connections": 9},
        "web2": {"natlb_address": "10.0.0.4", "natlb_state": "drained", "natlb_weight": None},
        "10.0.0.5": {},
    }
    assert backends(["web2", "web1", "10.0.0.5"], hostvars, port=8080) == [
        {"name": "web2", "address": "10.0.0.4", "port": 8080, "state": "drained"},
        {"name": "web1", "address": "10.0.0.3", "port": 8080, "weight": 3, "backup": False, "max_connections": 9},
        {"name": "10.0.0.5", "address": "10.0.0.5", "port": 8080},
    ]


def test_addresses_need_no_inventory() -> None:
    assert backends(hosts("10.0.0.3-4"), port=80) == [
        {"name": "10.0.0.3", "address": "10.0.0.3", "port": 80},
        {"name": "10.0.0.4", "address": "10.0.0.4", "port": 80},
    ]
    assert backends(["10.0.0.3"], {}, address_var="back") == [{"name": "10.0.0.3", "address": "10.0.0.3"}]


@pytest.mark.parametrize(
    ("names", "variables", "arguments", "message"),
    [
        (["web1"], {}, {}, "web1 has no usable address (set natlb_address for it, or gather its facts first)"),
        (["web1"], {"ansible_host": "web1.example.org"}, {}, "web1 has no usable address"),
        (["web1"], {"ansible_host": "10.0.0.3"}, {"family": "ipv6"}, "web1 has no usable IPv6 address"),
        (["web1"], {"ansible_host": "10.0.0.3"}, {"address_var": "back"}, "web1 has no usable address (set back)"),
        (["web1"], {"natlb_address": "web1"}, {}, "natlb_address of web1 is 'web1', which is not an IP address"),
        (["web1"], {"natlb_address": ["10.0.0.3", 7]}, {}, "natlb_address of web1 is 7, which is not an IP address"),
        (["web1"], {"back": "10"}, {"address_var": "back"}, "back of web1 is '10', which is not an IP address"),
        (["web9"], {}, {}, "web9 is not a host of the inventory"),
        ("web1", {}, {}, "'web1' is not a list of hosts (write groups['web'])"),
        (None, {}, {}, "None is not a list of hosts"),
        (["web1"], {"natlb_address": "10.0.0.3"}, {"family": "inet"}, "family 'inet' is not a choice here"),
    ],
)
def test_backends_refuses(names: Any, variables: dict[str, Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AnsibleFilterError) as caught:
        backends(names, {"web1": variables}, **arguments)
    assert message in str(caught.value)


def answers(monkeypatch: pytest.MonkeyPatch, found: dict[str, list[str]]) -> None:
    """A name server that knows these names, and rotates what it answers."""

    def getaddrinfo(name: str, _port: None, family: int, *_more: int) -> list[Any]:
        every = [(socket.AF_INET6 if ":" in item else socket.AF_INET, item) for item in reversed(found.get(name, []))]
        chosen = [item for item in every if family in (socket.AF_UNSPEC, item[0])] * 2
        if not chosen:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(its_family, 0, 0, "", (address, 0)) for its_family, address in chosen]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_names_of_hosts_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {"web.example.com": ["10.0.0.3", "10.0.0.20", "2001:db8:2::3"], "db-1": ["10.0.1.9"]})
    assert hosts("web.example.com") == ["10.0.0.3", "10.0.0.20", "2001:db8:2::3"]
    assert hosts("web.example.com", family="ipv4") == ["10.0.0.3", "10.0.0.20"]
    assert hosts(["db-1", "10.0.0.3-4", "10.0.1.9"]) == ["10.0.1.9", "10.0.0.3", "10.0.0.4"]


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, {"web.example.com": ["10.0.0.3"]})
    with pytest.raises(AnsibleFilterError, match=r"finds no address of wbe\.example\.com: .*not known"):
        hosts(["web.example.com", "wbe.example.com"])
    with pytest.raises(AnsibleFilterError, match=r"finds no ipv6 of web\.example\.com"):
        hosts("web.example.com", family="ipv6")
    with pytest.raises(AnsibleFilterError, match="'inet' is not a family"):
        hosts("10.0.0.3", family="inet")


def test_what_is_not_hostvars_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="not hostvars"):
        backends(["web1"], 8080)


@pytest.mark.parametrize(("plugin", "function"), [(hosts_plugin, "to_addresses"), (backends_plugin, "to_backends")])
def test_without_netaddr_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, plugin: Any, function: str
) -> None:
    monkeypatch.setattr(plugin, "netaddr", None)
    monkeypatch.setattr(plugin, "NETADDR_ERROR", ImportError("No module named 'netaddr'"))
    with pytest.raises(AnsibleFilterError, match="pip install netaddr"):
        getattr(plugin, function)(["10.0.0.3"])
