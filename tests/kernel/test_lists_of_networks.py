# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long lists of clients change by the networks that differ, and the kernel holds what is declared after each change."""

from __future__ import annotations

import ipaddress
import random
from typing import Any

import pytest
from _natlb.model.services import parse_config
from _natlb.nftables import render
from _natlb.nftables.text import parse_listing
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import VIP, VIP6, WEB6

REFUSED = "ConnectionRefusedError"
IN, OUT = "198.18.7.7", "198.18.9.9"
IN6, OUT6 = "2001:db8:18::7", "2001:db8:18::9"
FAMILIES: dict[str, Any] = {
    "ip": (f"{VIP}:80", webs("web1"), "198.18.7.0/24", "10.{}.{}.0/25", (IN, OUT)),
    "ip6": (f"[{VIP6}]:80", [{"address": WEB6["web1"]}], "2001:db8:18::/125", "2001:db8:{:x}:{:x}::/65", (IN6, OUT6)),
}
#: Networks at the ends of what there is, alone and side by side.
EDGES = {
    "ip": ["255.255.255.255/32", "224.0.0.0/4", "0.0.0.0/8", "126.0.0.0/7"],
    "ip6": ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128", "fe00::/8", "::/64", "1:0:0:2::/64"],
}


def listed(balancer: Balancer, family: str, name: str) -> list[str]:
    found = parse_listing(balancer.host.run("nft", "--stateless", "-nn", "list", "table", family, "natlb"))
    return sorted(found[family, "natlb", "set", name].body)  # type: ignore[index]


def rendered(declared: Mapping, family: str, name: str) -> list[str]:
    return sorted(render.render(parse_config([declared]))[family, "natlb", "set", name].body)  # type: ignore[index]


@pytest.mark.engines("nftables")
@pytest.mark.parametrize(("family", "key"), [("ip", "allow_from"), ("ip6", "deny_from")])
def test_after_each_change_the_kernel_holds_what_is_declared(balancer: Balancer, family: str, key: str) -> None:
    target, backends, own, form, (inside, outside) = FAMILIES[family]
    many = [form.format(64 + (number >> 8), number & 255) for number in range(600)]
    others = [str(net) for net in ipaddress.ip_network(many[1]).supernet().subnets()]
    steps = [
        [*many, own],
        [*many[1:], own],
        [*many, *others, own],
        [*many, own, *(EDGES[family])],
        [*many[:10], own],
        many,
        [*random.Random(1).sample(many, 300), own],
        [own, many[0]],
    ]
    for networks in steps:
        declared = service(listen=target, backends=backends, **{key: networks})
        assert balancer.apply([declared]).changed
        wanted = {inside: (own in networks) == (key == "allow_from"), outside: key == "deny_from"}
        for client, admitted in wanted.items():
            assert balancer.tally(target, sources=[client]) == {"web1" if admitted else REFUSED: 1}
        name = f"{key.partition('_')[0]}.web"
        assert listed(balancer, family, name) == rendered(declared, family, name)
    assert not balancer.info()["drift"]
    assert not balancer.apply([declared]).changed


@pytest.mark.engines("nftables")
def test_what_somebody_has_done_to_a_list_is_put_right(balancer: Balancer) -> None:
    declared = service(allow_from=["198.18.7.0/24", "203.0.113.0/24"])
    balancer.apply([declared])
    balancer.host.run(
        "nft", "delete element ip natlb allow.web { 198.18.7.0/24 }; add element ip natlb allow.web { 198.18.9.0/24 }"
    )
    assert balancer.info()["drift"]
    outcome = balancer.apply([declared])
    assert outcome.changed
    assert "+198.18.7.0/24" in outcome.diff
    assert "-198.18.9.0/24" in outcome.diff
    assert balancer.tally(sources=[OUT]) == {REFUSED: 1}
    assert sum(balancer.tally(count=4, sources=[IN]).values()) == 4
