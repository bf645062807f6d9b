# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks of everything, of one address, overlapping and adjoining ones, in every place that takes networks."""

from __future__ import annotations

import ipaddress

import pytest
from _natlb.errors import ConfigErrors
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import CLIENT, CLIENT6, FRONT, FRONT6, NAMES, VIP, VIP6, WEB
from shapes import BOTH
from test_egress import INTERNET, by_weight, out, ways

HERE, THERE = "198.18.0.7", "198.18.9.7"

#: Networks, and whether HERE and THERE are in them.
CASES: dict[str, tuple[list[str], bool, bool]] = {
    "everything": (["0.0.0.0/0"], True, True),
    "everything in halves": (["0.0.0.0/1", "128.0.0.0/1"], True, True),
    "everything and more": (["198.18.0.0/24", "0.0.0.0/0", HERE], True, True),
    "one address": ([HERE], True, False),
    "one address with its length": ([f"{HERE}/32"], True, False),
    "one address twice": ([HERE, f"{HERE}/32"], True, False),
    "overlapping": (["198.18.0.0/24", "198.18.0.0/28"], True, False),
    "adjoining": (["198.18.0.0/24", "198.18.1.0/24"], True, False),
    "adjoining addresses": (["198.18.0.6", HERE, "198.18.0.8"], True, False),
    "a half": (["128.0.0.0/1"], True, True),
    "elsewhere": (["203.0.113.0/24"], False, False),
    "of another family": (["::/0"], False, False),
    "of both families": (["198.18.0.0/24", "::/0"], True, False),
    "everything in both families": (["0.0.0.0/0", "::/0"], True, True),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("limited", [False, True], ids=["alone", "with a limit"])
def test_who_is_allowed(balancer: Balancer, case: str, limited: bool) -> None:
    networks, here, there = CASES[case]
    limits = {"max_connections_per_client": 100} if limited else {}
    dual = service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=BOTH, allow_from=networks, **limits)
    balancer.apply([dual])
    for source, allowed in ((HERE, here), (THERE, there)):
        seen = balancer.tally(count=2, sources=[source])
        assert (sum(seen[name] for name in NAMES) == 2) == allowed, (source, seen)
    six = balancer.tally(f"[{VIP6}]:80", 2)
    assert (sum(six[name] for name in NAMES) == 2) == ("::/0" in networks), six
    again = balancer.apply([dual])
    assert (again.changed, again.transaction) == (False, "none")
    assert not balancer.info()["drift"]
    balancer.apply([service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=BOTH)])
    assert sum(balancer.tally(count=4, sources=[THERE]).values()) == 4


def without(address: str) -> list[str]:
    """The complement of one address: as many networks as it has bits, each half as large as the last."""
    parsed = ipaddress.ip_network(address)
    everything = ipaddress.ip_network("0.0.0.0/0" if parsed.version == 4 else "::/0")
    return [str(network) for network in everything.address_exclude(parsed)]  # type: ignore[arg-type]


@pytest.mark.parametrize("limited", [False, True], ids=["alone", "with a limit"])
def test_everybody_but_one(balancer: Balancer, limited: bool) -> None:
    limits = {"max_connections_per_client": 3, "affinity": 60} if limited else {}
    networks = [*without(f"{HERE}/32"), *without(f"{CLIENT6}/128")]
    dual = service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=BOTH, allow_from=networks[::-1], **limits)
    balancer.apply([dual])
    assert balancer.tally(count=2, sources=[HERE]) == {"ConnectionRefusedError": 2}
    assert sum(balancer.tally(count=2, sources=[THERE])[name] for name in NAMES) == 2
    assert balancer.tally(f"[{VIP6}]:80", 1) == {"ConnectionRefusedError": 1}
    held = balancer.hold(count=3, source="198.18.8.8")
    assert all(answer.name for _handle, answer in held)
    refused = balancer.tally(count=2, sources=["198.18.8.8"])["ConnectionRefusedError"]
    assert refused == (2 if limited else 0), "the list goes on to the limits"
    assert not balancer.apply([dual]).changed


@pytest.mark.slow
@pytest.mark.engines("iptables-nft", "iptables-legacy")
def test_a_hundred_thousand_networks(balancer: Balancer) -> None:
    """Every other /25 of the first half of the addresses, and one that a client has."""
    networks = [str(ipaddress.ip_network((number << 8, 25))) for number in range(1 << 16, (1 << 16) + 99_999)]
    declared = [service(allow_from=[*networks, HERE])]
    balancer.apply(declared)
    assert balancer.tally(count=2, sources=[THERE]) == {"ConnectionRefusedError": 2}
    assert sum(balancer.tally(count=2, sources=[HERE])[name] for name in NAMES) == 2
    assert not balancer.apply(declared).changed
    balancer.remove()
    assert balancer.ours_left() == []


#: The backends are 10.0.0.3 and so on. Where the router's tutorial stands: the first.
EGRESS: dict[str, tuple[list[str], bool, bool]] = {
    "everything": (["0.0.0.0/0"], True, True),
    "everything in halves": (["0.0.0.0/1", "128.0.0.0/1"], True, True),
    "everything and more": (["0.0.0.0/0", "10.0.0.0/24"], True, True),
    "everything in both families": (["0.0.0.0/0", "::/0"], True, True),
    "one address": ([WEB["web1"]], True, False),
    "one address with its length": ([f"{WEB['web1']}/32"], True, False),
    "overlapping": (["10.0.0.0/30", WEB["web1"]], True, False),
    "adjoining": (["10.0.0.2/31", "10.0.0.0/31"], True, False),
    "a half": (["0.0.0.0/1"], True, True),
    "several": ([WEB["web1"], "10.9.0.0/16"], True, False),
    "elsewhere": (["203.0.113.0/24"], False, False),
}


@pytest.mark.parametrize("case", EGRESS)
@pytest.mark.parametrize("ports", [False, True], ids=["all ports", "one port"])
def test_who_is_rewritten_on_the_way_out(balancer: Balancer, case: str, ports: bool) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    networks, first, second = EGRESS[case]
    rule = {"source": networks, "out_interface": "front"}
    if ports:
        rule |= {"protocol": "tcp", "destination_ports": [80]}
    balancer.apply([service(snat="none")], [rule])
    for name, rewritten in (("web1", first), ("web2", second)):
        (answer,) = balancer.lab.backends[name].call(traffic.ask, f"{CLIENT}:80")
        assert answer.peer == (FRONT if rewritten else WEB[name])
    assert (out(balancer, f"[{CLIENT6}]:80")[0].peer == FRONT6) == ("::/0" in networks)
    # What comes in, and what stays inside, is as it was.
    assert {answer.peer for answer in balancer.ask(count=4)} == {CLIENT}
    assert balancer.lab.backends["web1"].call(traffic.ask, f"{WEB['web2']}:80")[0].peer == WEB["web1"]
    again = balancer.apply([service(snat="none")], [rule])
    assert (again.changed, again.transaction) == (False, "none")


def test_everything_over_uplinks(balancer: Balancer) -> None:
    balancer.lab.uplinks()
    rule = {**by_weight(2, 1), "source": "0.0.0.0/0"}
    balancer.apply([service()], [rule])
    assert ways(out(balancer, f"{INTERNET}:80", 6)) == {"isp1": 4, "isp2": 2}
    assert sum(balancer.tally(count=4)[name] for name in NAMES) == 4
    assert not balancer.apply([service()], [rule]).changed


@pytest.mark.parametrize("before", [0, 1], ids=["natlb forwards", "forwarded before"])
def test_everything_through_a_closed_forward_chain(balancer: Balancer, before: int) -> None:
    """Docker's policy: what leaves by the interface passes, and its answers; what comes in by it does not."""
    balancer.host.sysctl({"ipv4/ip_forward": before})
    variant = balancer.variant or "nft"
    rule = {"source": "0.0.0.0/0", "out_interface": "front"}
    balancer.host.run(f"iptables-{variant}", "-P", "FORWARD", "DROP")
    warnings = balancer.apply([], [rule]).warnings
    assert any("egress of 0.0.0.0/0" in warning for warning in warnings), warnings
    balancer.apply([], [rule], firewall="accept")
    assert out(balancer)[0].peer == FRONT
    assert balancer.ask(f"{WEB['web1']}:80", timeout_s=0.2)[0].error
    assert not balancer.apply([], [rule], firewall="accept").changed


def test_everything_without_an_interface_is_refused(balancer: Balancer) -> None:
    before = balancer.snapshot()
    with pytest.raises(ConfigErrors, match=r"egress\[0\]\.source: 0\.0\.0\.0/0 without an interface"):
        balancer.apply([], [{"source": "0.0.0.0/0"}])
    assert balancer.snapshot() == before
