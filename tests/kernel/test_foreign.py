# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is not ours stays as it is, to the byte and to the counter, whatever we do beside it."""

from __future__ import annotations

import pytest
from foreign_rules import IPTABLES, NFT, ip6tables
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import NAMES, VIP
from shapes import ALL, CHANGED, EGRESS

PLACES = ("nft", "iptables-nft", "iptables-legacy")


def settle(balancer: Balancer, place: str) -> None:
    """Other tools' rules, in one of the places where they live. Their counters are compared, so nobody else sends."""
    balancer.lab.silence()
    if place == "nft":
        balancer.host.run("nft", "-f", "-", stdin=NFT)
        return
    balancer.host.run(f"{place}-restore", "--counters", "-w", "10", stdin=IPTABLES)
    balancer.host.run(f"{place.replace('ip', 'ip6', 1)}-restore", "--counters", "-w", "10", stdin=ip6tables())


@pytest.mark.parametrize("place", [*PLACES, "all"])
def test_foreign_rules_are_untouched(balancer: Balancer, place: str) -> None:
    for each in PLACES if place == "all" else [place]:
        settle(balancer, each)
    before = balancer.foreign()
    assert len("".join(before.values())) > 1500
    balancer.apply(ALL, EGRESS)
    assert balancer.foreign() == before
    balancer.apply(CHANGED, EGRESS[:1])
    assert balancer.foreign() == before
    balancer.apply(CHANGED, EGRESS[:1])
    assert balancer.foreign() == before
    balancer.remove()
    assert balancer.foreign() == before
    assert [line for line in balancer.ours_left() if not _near_us(line)] == []


def _near_us(line: str) -> bool:
    """Names of the foreign rules that come near ours."""
    return "NATLBISNOTUS" in line or line in ("table inet natlb {", "table ip natlb-local {")


@pytest.mark.parametrize("place", PLACES)
def test_foreign_rules_survive_the_repair_of_drift(balancer: Balancer, place: str) -> None:
    settle(balancer, place)
    before = balancer.foreign()
    balancer.apply(ALL)
    if balancer.nftables:
        balancer.host.run("nft", "delete", "table", "ip", "natlb")
    else:
        balancer.host.run(
            f"iptables-{balancer.variant}", "-w", "10", "-t", "nat", "-D", "PREROUTING", "-j", "NATLB.pre"
        )
    assert balancer.apply(ALL).changed
    assert balancer.foreign() == before


@pytest.mark.parametrize("place", PLACES)
def test_we_work_beside_them(balancer: Balancer, place: str) -> None:
    """Their FORWARD policy is DROP, as Docker sets it; what they accept of ours goes through."""
    settle(balancer, place)
    balancer.apply([service(), service("empty", listen=f"{VIP}:81", backends=[])])
    assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)
    assert balancer.tally(f"{VIP}:81") == {"ConnectionRefusedError": 1}


def test_rules_that_others_add_later_stay(balancer: Balancer) -> None:
    """Also those between, before and behind our jumps."""
    balancer.apply(ALL)
    for place in PLACES:
        settle_later(balancer, place)
    before = balancer.foreign()
    balancer.apply(CHANGED)
    balancer.apply(ALL)
    assert balancer.foreign() == before
    balancer.remove()
    assert balancer.foreign() == before


def settle_later(balancer: Balancer, place: str) -> None:
    if place == "nft":
        balancer.host.run("nft", "-f", "-", stdin=NFT)
        return
    for how, port in (("-I", 5551), ("-A", 5552)):
        for chain in ("PREROUTING", "OUTPUT"):
            words = f"-t nat {how} {chain} -p tcp --dport {port} -j REDIRECT --to-ports 1".split()
            balancer.host.run(place, "-w", "10", *words)
        words = f"-t nat {how} POSTROUTING -p tcp --dport {port} -j MASQUERADE".split()
        balancer.host.run(place, "-w", "10", *words)
        balancer.host.run(place, "-w", "10", *f"{how} FORWARD -p tcp --dport {port} -j DROP".split())
