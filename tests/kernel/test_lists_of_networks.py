# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long lists of clients change by the networks that differ, and the kernel holds what is declared after each change."""

from __future__ import annotations

import contextlib
import ipaddress
import random
from collections.abc import Iterator
from typing import Any

import pytest
from _natlb.cli import single_file
from _natlb.model.services import parse_config
from _natlb.nftables import render
from _natlb.nftables.delta import delta
from _natlb.nftables.text import parse_listing
from kernel_lab import generations, traffic
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


def answering(kind: str, networks: list[str], others: list[str]) -> Mapping:
    """A service with one answer for some networks, and another for others."""
    if kind == "pins":
        named = [(net, "web2") for net in networks] + [(net, "web3") for net in others]
        return service(pins=[{"client": net, "backend": backend} for net, backend in named])
    rules = [{"networks": nets, "snat": snat} for nets, snat in ((networks, "none"), (others, "10.0.0.9")) if nets]
    return service(backends=webs("web1"), snat_by_client=rules)


@pytest.mark.engines("nftables")
@pytest.mark.parametrize(("kind", "name"), [("pins", "pins.web.tcp"), ("snat_by_client", "snat_client.web")])
def test_maps_of_networks_change_by_elements(balancer: Balancer, kind: str, name: str) -> None:
    own, many = "198.18.7.0/24", [f"10.{number >> 8}.{number & 255}.0/25" for number in range(600)]
    around = [str(net) for net in ipaddress.ip_network(many[1]).supernet().subnets()]
    steps: list[tuple[list[str], list[str], bool]] = [
        ([*many, own], [], False),
        ([*many[1:], own], [], False),
        ([*many[2:], own], [many[1]], False),
        ([*many[2:], own, *around[:1]], [*around[1:], *EDGES["ip"]], False),
        ([*many[500:], own], [], True),
        ([*many[:100], own], many[100:], False),
        (many, [own], True),
        ([], [own, many[0]], True),
        ([own], [], False),
    ]
    before = None
    for networks, others, refilled in steps:
        declared = answering(kind, networks, others)
        after = render.render(parse_config([declared]))
        if before is not None:
            changes = [line for text in delta(before, after, after) for line in text.splitlines()]
            assert [line for line in changes if " map " in line] == [f"flush map ip natlb {name}"] * refilled
        before = after
        assert balancer.apply([declared]).transaction == ("delta" if networks is not steps[0][0] else "replace")
        (answer,) = balancer.ask(sources=[IN])
        if kind == "pins":
            assert answer.who == ("web2" if own in networks else "web3")
        else:
            assert answer.peer == IN if own in networks else answer.error
        kept = parse_listing(balancer.host.run("nft", "--stateless", "-nn", "list", "table", "ip", "natlb"))
        assert sorted(kept["ip", "natlb", "map", name].body) == sorted(after["ip", "natlb", "map", name].body)  # type: ignore[index]
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


# -- lists that are named once -----------------------------------------------------------------------------------------

ADMIN, SHOP = f"{VIP}:80", f"{VIP}:81"


def named() -> list[Mapping]:
    """Both families, once as those that may connect and once as those that may not."""
    backends = [*webs("web1", port=80), {"name": "web1-six", "address": WEB6["web1"], "port": 80}]
    listens = {"admin": [ADMIN, f"[{VIP6}]:80"], "shop": [SHOP, f"[{VIP6}]:81"]}
    keys = {"admin": {"allow_from": "office", "new_connections_per_second": 100}, "shop": {"deny_from": ["office"]}}
    return [service(name, listen=listens[name], backends=backends, **keys[name]) for name in listens]


def met(balancer: Balancer, client: str) -> list[bool]:
    """Whether each of the two services takes the client."""
    host = f"[{VIP6}]" if ":" in client else VIP
    return ["web1" in balancer.tally(f"{host}:{port}", sources=[client]) for port in (80, 81)]


def test_services_share_a_list_and_follow_it(balancer: Balancer) -> None:
    many = [f"10.{number >> 8}.{number & 255}.0/25" for number in range(300)]
    lists = {"office": [*many, "198.18.7.0/24", "2001:db8:18::/125"], "unused": "203.0.113.0/24"}
    for networks, inside in ((lists, True), ({**lists, "office": [*many, "2001:db8:19::/64"]}, False), (lists, True)):
        assert balancer.apply(named(), networks=networks).changed
        for client in (IN, IN6):
            assert met(balancer, client) == [inside, not inside]
        for client in (OUT, OUT6):
            assert met(balancer, client) == [False, True]
        assert not balancer.info()["drift"]
        assert not balancer.apply(named(), networks=networks).changed
    own = [service("admin", listen=ADMIN, backends=webs("web1", port=80), allow_from=[*many, "198.18.7.0/24"])]
    assert balancer.apply(own).changed, "a list of the same networks that is the service's own"
    assert met(balancer, IN)[0]
    assert not met(balancer, OUT)[0]
    assert balancer.remove().changed
    assert balancer.ours_left() == []


def test_what_is_kept_of_a_list_is_enough_without_ansible(balancer: Balancer) -> None:
    lists = {"office": ["198.18.7.0/24", "198.18.8.1", "2001:db8:18::/125"]}
    balancer.apply(named(), networks=lists, program=single_file.text)
    balancer.backend("web1", "drained", service="admin", min_active=0)
    assert met(balancer, IN) == [False, False]
    balancer.backend("web1", "active", service="admin")
    assert met(balancer, IN) == [True, False]
    if balancer.nftables:
        balancer.host.run("nft", "delete table ip natlb; delete table ip6 natlb")
    else:
        balancer.host.run(f"iptables-{balancer.variant}", "-t", "nat", "-F", "NATLB.pre")
    assert balancer.info()["drift"]
    assert balancer.natlb("apply")[0] == 0
    assert not balancer.info()["drift"]
    assert [met(balancer, client) for client in (IN, IN6, OUT, OUT6)] == [[True, False]] * 2 + [[False, True]] * 2


def test_a_run_tells_what_came_and_went_in_a_list(balancer: Balancer) -> None:
    balancer.apply(named(), networks={"office": ["198.18.7.0/24", "2001:db8:18::/125"]})
    outcome = balancer.apply(named(), networks={"office": ["198.18.9.0/24", "2001:db8:18::/125"]})
    assert outcome.diff.splitlines()[:2] == [
        "list office: 198.18.7.0/24 removed",
        "list office: 198.18.9.0/24 added",
    ]
    assert [met(balancer, client) for client in (IN, OUT)] == [[False, True], [True, False]]


@pytest.mark.engines("nftables")
def test_one_network_of_a_shared_list_is_one_element(balancer: Balancer) -> None:
    many = [f"10.{number >> 8}.{number & 255}.0/25" for number in range(2000)]
    balancer.apply(named(), networks={"office": [*many, "198.18.7.0/24", "2001:db8:18::/125"]})
    outcome = balancer.apply(named(), networks={"office": [*many[1:], "198.18.7.0/24", "2001:db8:18::/125"]})
    changed = [line for line in outcome.diff.splitlines() if line.startswith(("-1", "+1"))]
    assert changed == ["-10.0.0.0/25"]
    assert len(listed(balancer, "ip", "networks.office")) == 2000, "many[1:] and that of clients"
    tables = parse_listing(balancer.host.run("nft", "--stateless", "-nn", "list", "table", "ip", "natlb"))
    assert not {key.name for key in tables} & {"allow.admin", "deny.shop"}, "both services look up the one set"


# -- while a list is changed -------------------------------------------------------------------------------------------

MANY = [f"10.{number >> 8}.{number & 255}.0/25" for number in range(600)]
#: What leaves a list and comes back, and whether its set is emptied and filled for that.
LEAVING = {"one element": (1, False), "refilled": (200, True)}
CHANGES, LIMIT_S = 300, 120.0


def guarded(networks: list[str]) -> list[Mapping]:
    """Both services take the first client, and refuse the second one, whatever else is in the lists."""
    backends = webs("web1", port=80)
    return [
        service("admin", listen=ADMIN, backends=backends, allow_from=[*networks, "198.18.7.0/24"]),
        service("shop", listen=SHOP, backends=backends, deny_from=[*networks, "198.18.9.0/24"]),
    ]


@contextlib.contextmanager
def clients(balancer: Balancer) -> Iterator[None]:
    """Both connect to both services, one connection after the other. None meets anything but what it is to."""
    load = [
        balancer.client.begin(traffic.hammer, [ADMIN, SHOP], limit_s=LIMIT_S, keep=0, breath_s=0, source=source)
        for source in (IN, OUT)
    ]
    balancer.client.call(traffic.hammering)
    yield
    balancer.client.call(traffic.halt)
    admitted, denied = (traffic.Hammered(*each.result(LIMIT_S)).answers for each in load)
    print(f"{balancer.engine} {balancer.variant}: admitted {admitted}, denied {denied}")
    assert set(admitted) == {"web1"}
    assert set(denied) == {REFUSED}
    assert min(admitted.total(), denied.total()) > CHANGES


@pytest.mark.slow
@pytest.mark.engines("nftables")
@pytest.mark.parametrize("way", LEAVING)
def test_nobody_is_refused_or_let_in_while_elements_change(balancer: Balancer, way: str) -> None:
    count, is_refilled = LEAVING[way]
    whole, less = guarded(MANY), guarded(MANY[count:])
    change = delta(*(render.render(parse_config(each)) for each in (whole, less)), render.render(parse_config(less)))
    assert [line for text in change for line in text.splitlines() if line.startswith("flush set")] == [
        f"flush set ip natlb {name}" for name in ("allow.admin", "deny.shop") if is_refilled
    ]
    balancer.apply(whole)
    with clients(balancer):
        changes, untranslated = balancer.host.call(
            generations.flip, whole, less, CHANGES, LIMIT_S / 2, VIP, within_s=LIMIT_S
        )
    assert changes == CHANGES
    assert not untranslated


@pytest.mark.slow
def test_nobody_is_refused_or_let_in_while_runs_change_a_list(balancer: Balancer) -> None:
    balancer.apply(guarded(MANY))
    with clients(balancer):
        for count in (1, 0, 200, 0, 599, 300, 1, 0) * 2:
            assert balancer.apply(guarded(MANY[count:])).changed
