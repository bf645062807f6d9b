# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent beside other firewalls: what they take away of ours is back at once, with what was found of backends, and
the way through their FORWARD chain as well. How long it took is printed."""

from __future__ import annotations

import os
import time

import pytest
from kernel_lab import harming
from kernel_lab.balancer import Balancer, service
from test_agent import FAST, crashed, running
from test_forward_path import DOCKER, load, theirs
from test_running import ALL, NUMBERED, WITHOUT

_PROGRAMS = ("iptables-nft", "ip6tables-nft")
#: firewalld flushes every table of iptables at its start and at a reload, each in one step.
_FLUSH = [
    (f"{program}-restore -w 10 --noflush", f"*{table}\n-F\n-X\nCOMMIT\n")
    for program in _PROGRAMS
    for table in ("mangle", "nat", "filter")
]
#: What Docker does when it starts again: a chain of its own comes first, and what nobody lets pass is dropped.
_DOCKER = [
    (f"{program} -w 10 {words}", "")
    for program in _PROGRAMS
    for words in ("-N DOCKER-FORWARD", "-A DOCKER-FORWARD -j DROP", "-I FORWARD -j DOCKER-FORWARD", "-P FORWARD DROP")
]
#: The whole of a table as a tool keeps it, which takes the place of what is there.
_OWN_TABLES = [("iptables-nft-restore -w 10", DOCKER), ("iptables-nft-restore -w 10", "*nat\nCOMMIT\n")]
HARMS = {
    "nft flush ruleset": [("nft flush ruleset", "")],
    "nft flush ruleset, then tables of its own": [("nft flush ruleset", ""), *_OWN_TABLES],
    "flushed as by firewalld": _FLUSH,
    "chains first as by Docker": _DOCKER,
    "iptables-restore of its own": _OWN_TABLES,
    "iptables -t nat -F": [("iptables-nft -w 10 -t nat -F", "")],
}
#: There is no FORWARD chain any more that could deny anything.
_OPEN = ("nft flush ruleset",)


def ours(balancer: Balancer, opened: bool) -> list[harming.Ours]:
    """What has to be there in the end."""
    way = [("ip", "filter", "FORWARD", "NATLB.forward", "first")] if opened else []
    return [("ip", "natlb") if balancer.nftables else ("ip", "nat", "PREROUTING", "NATLB.pre"), *way]


@pytest.mark.engines(*NUMBERED)
@pytest.mark.parametrize("name", HARMS)
def test_what_others_take_away_is_back_at_once(balancer: Balancer, name: str) -> None:
    load(balancer, "iptables-nft", DOCKER)
    with running(balancer, service(health=FAST), firewall="accept") as here, crashed(balancer, "web2"):
        here.wait_for("web2 of web is down")
        assert balancer.tally(count=6) == WITHOUT
        took_s = balancer.host.call(harming.harm, HARMS[name], ours(balancer, name not in _OPEN))
        foreign = theirs(balancer)
        print(f"{balancer.engine}, {name}: back after {1000 * took_s:.0f} ms")
        assert balancer.tally(count=6) == WITHOUT
        if not balancer.nftables or "-t nat" not in name:
            here.wait_for("they are back (at once)")
        wait_until_right(balancer)
        assert balancer.tally(count=6) == WITHOUT
        assert theirs(balancer) == foreign, "nothing of others is touched"


def wait_until_right(balancer: Balancer) -> None:
    """What was put back at once is read as a whole a moment later."""
    give_up = time.monotonic() + 30
    while balancer.info()["drift"]:
        assert time.monotonic() < give_up


@pytest.mark.engines("iptables-legacy")
def test_of_legacy_it_is_looked_for(balancer: Balancer) -> None:
    load(balancer, "iptables-legacy", DOCKER)
    with running(balancer, service(health=FAST), firewall="accept") as here, crashed(balancer, "web2"):
        here.wait_for("web2 of web is down")
        assert balancer.tally(count=6) == WITHOUT
        for words in ("-I FORWARD -j DROP", "-F FORWARD"):
            balancer.host.run("iptables-legacy", "-w", "10", *words.split())
            balancer.host.call(harming.wait_for_legacy, "filter", "FORWARD", "-A FORWARD -j NATLB.forward")
            assert balancer.tally(count=6) == WITHOUT


@pytest.mark.engines(*NUMBERED)
def test_a_forward_chain_that_is_closed_later_is_opened(balancer: Balancer) -> None:
    """As by Docker or ufw, when they begin. Other commits have made the agent slow to read the host."""
    with running(balancer, service(health=FAST), firewall="accept"):
        for number in range(5):
            balancer.host.run("nft", "add", "table", "inet", f"foreign{number}")
            time.sleep(0.2)
        load(balancer, "iptables-nft", DOCKER)
        way = [("ip", "filter", "FORWARD", "NATLB.forward", "first")]
        took_s = balancer.host.call(harming.harm, [], way)
        print(f"{balancer.engine}: open after {1000 * took_s:.0f} ms")
        assert balancer.tally(count=8) == ALL


@pytest.mark.engines(*NUMBERED)
def test_a_forward_chain_that_is_closed_at_any_moment_is_opened(balancer: Balancer) -> None:
    """Also while the agent reads the host, because of what was changed before. `make drills` does more of it."""
    seeds, rounds = (range(6), 30) if os.environ.get("NATLB_DRILLS") == "full" else (range(1), 6)
    way = [("ip", "filter", "FORWARD", "NATLB.forward", "first")]
    with running(balancer, service(health=FAST), firewall="accept"):
        for seed in seeds:
            took = balancer.host.call(harming.close_and_open, DOCKER, way, rounds, seed)
            print(f"{balancer.engine}: closed {rounds} times, open after {1000 * max(took):.0f} ms at most")
        assert balancer.tally(count=8) == ALL
