# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What somebody else does to our rules is seen, shown and repaired."""

from __future__ import annotations

import re

import pytest
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.drive import contents
from kernel_lab.topology import NAMES, VIP, VIP6
from shapes import ALL, BOTH

DECLARED = [
    service(),
    service("chance", listen=[f"{VIP}:81", f"[{VIP6}]:81"], method="random", backends=BOTH),
    service("guarded", listen=f"{VIP}:82", allow_from=["198.18.0.0/16"], backends=webs("web1")),
]


def repaired(balancer: Balancer, good: dict[str, str]) -> str:
    """One run puts everything back and says so; the next has nothing to do. Returns the diff."""
    broken = balancer.snapshot()
    assert contents(broken) != contents(good), "the damage itself must show, or this test tests nothing"
    checked = balancer.apply(DECLARED, check=True)
    assert balancer.snapshot() == broken
    outcome = balancer.apply(DECLARED)
    assert outcome.changed
    assert outcome.diff.startswith("the declaration is unchanged; the host differs from it\n--- ")
    assert outcome.diff == checked.diff
    assert contents(balancer.snapshot()) == contents(good)
    again = balancer.apply(DECLARED)
    assert (again.changed, again.transaction) == (False, "none")
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)
    return str(outcome.diff)


@pytest.fixture
def good(balancer: Balancer) -> dict[str, str]:
    balancer.apply(DECLARED)
    return balancer.snapshot()


@pytest.mark.engines("nftables")
class TestNftables:
    def nft(self, balancer: Balancer, text: str) -> None:
        balancer.host.run("nft", "-f", "-", stdin=text)

    def first_element(self, balancer: Balancer, name: str) -> str:
        """The key of a map's first element."""
        shown = balancer.host.run("nft", "-s", "-nn", "list", "map", "ip", "natlb", name)
        found = re.search(r"elements = \{ ([^:,]+?)(?: counter)? :", shown)
        assert found, shown
        return found[1].strip()

    @pytest.mark.parametrize("name", ["service", "slot_tcp", "source_nat"])
    def test_a_lost_element(self, balancer: Balancer, good: dict[str, str], name: str) -> None:
        key = self.first_element(balancer, name)
        self.nft(balancer, f"delete element ip natlb {name} {{ {key} }}")
        assert f"+{key}" in repaired(balancer, good)

    def test_a_strange_element(self, balancer: Balancer, good: dict[str, str]) -> None:
        self.nft(balancer, "add element ip natlb service { 203.0.113.1 . 6 . 80 : drop }")
        assert "-203.0.113.1 . 6 . 80 : drop" in repaired(balancer, good)

    def test_a_changed_element(self, balancer: Balancer, good: dict[str, str]) -> None:
        key = self.first_element(balancer, "slot_tcp")
        change = f"add element ip natlb slot_tcp {{ {key} : 10.0.0.99 . 80 }}"
        self.nft(balancer, f"delete element ip natlb slot_tcp {{ {key} }}\n{change}")
        assert "10.0.0.99" in repaired(balancer, good)

    def test_a_strange_rule(self, balancer: Balancer, good: dict[str, str]) -> None:
        self.nft(balancer, "insert rule ip natlb prerouting tcp dport 80 drop")
        assert "-tcp dport 80 drop" in repaired(balancer, good)

    def test_a_strange_chain(self, balancer: Balancer, good: dict[str, str]) -> None:
        self.nft(balancer, "add chain ip natlb strange\nadd rule ip natlb strange drop")
        assert "strange" in repaired(balancer, good)

    @pytest.mark.parametrize("chain", ["prerouting", "postrouting", "output"])
    def test_an_emptied_chain(self, balancer: Balancer, good: dict[str, str], chain: str) -> None:
        self.nft(balancer, f"flush chain ip natlb {chain}")
        assert chain in repaired(balancer, good)

    @pytest.mark.parametrize("family", ["ip", "ip6"])
    def test_a_lost_table(self, balancer: Balancer, good: dict[str, str], family: str) -> None:
        self.nft(balancer, f"delete table {family} natlb")
        repaired(balancer, good)

    def test_a_flushed_ruleset(self, balancer: Balancer, good: dict[str, str]) -> None:
        """What `systemctl reload nftables` does first."""
        self.nft(balancer, "flush ruleset")
        repaired(balancer, good)

    def test_a_dormant_table(self, balancer: Balancer, good: dict[str, str]) -> None:
        self.nft(balancer, "add table ip natlb { flags dormant; }")
        repaired(balancer, good)

    def test_what_packets_fill_is_no_drift(self, balancer: Balancer) -> None:
        balancer.apply(ALL)
        balancer.tally(f"{VIP}:90", 3, sources=["198.18.0.7", "198.18.0.8", "198.18.0.9"])
        balancer.tally(f"{VIP}:91", 3)
        outcome = balancer.apply(ALL)
        assert (outcome.changed, outcome.diff) == (False, "")


@pytest.mark.engines("iptables-nft", "iptables-legacy")
class TestIptables:
    def iptables(self, balancer: Balancer, words: str, six: bool = False) -> None:
        program = f"{'ip6tables' if six else 'iptables'}-{balancer.variant}"
        balancer.host.run(program, "-w", "10", *words.split())

    def save(self, balancer: Balancer) -> list[str]:
        return balancer.host.run(f"iptables-{balancer.variant}-save", "-t", "nat").splitlines()

    @pytest.mark.parametrize("chain", ["PREROUTING", "OUTPUT", "POSTROUTING"])
    def test_a_lost_jump(self, balancer: Balancer, good: dict[str, str], chain: str) -> None:
        (jump,) = [line for line in self.save(balancer) if line.startswith(f"-A {chain} ")]
        self.iptables(balancer, f"-t nat -D {jump[3:]}")
        assert f"+{jump}" in repaired(balancer, good)

    def test_a_doubled_jump(self, balancer: Balancer, good: dict[str, str]) -> None:
        (jump,) = [line for line in self.save(balancer) if line.startswith("-A PREROUTING ")]
        self.iptables(balancer, f"-t nat {jump}")
        repaired(balancer, good)

    def test_a_lost_rule(self, balancer: Balancer, good: dict[str, str]) -> None:
        rule = next(line for line in self.save(balancer) if "-j DNAT" in line)
        self.iptables(balancer, f"-t nat -D {rule[3:]}")
        assert f"+{rule}" in repaired(balancer, good)

    def test_a_strange_rule(self, balancer: Balancer, good: dict[str, str]) -> None:
        chain = next(line.split()[1] for line in self.save(balancer) if "-j DNAT" in line)
        self.iptables(balancer, f"-t nat -I {chain} -s 203.0.113.9 -j RETURN")
        assert "203.0.113.9" in repaired(balancer, good)

    def test_another_order(self, balancer: Balancer, good: dict[str, str]) -> None:
        """The order of nth rules is their meaning."""
        rules = [line for line in self.save(balancer) if "-j DNAT" in line and "statistic" in line]
        chain = rules[0].split()[1]
        self.iptables(balancer, f"-t nat -D {rules[0][3:]}")
        self.iptables(balancer, f"-t nat {rules[0]}")
        assert chain in repaired(balancer, good)

    @pytest.mark.parametrize("six", [False, True])
    def test_a_flushed_table(self, balancer: Balancer, good: dict[str, str], six: bool) -> None:
        """What `iptables -F; iptables -X` does."""
        self.iptables(balancer, "-t nat -F", six)
        self.iptables(balancer, "-t nat -X", six)
        repaired(balancer, good)

    def test_what_packets_fill_is_no_drift(self, balancer: Balancer) -> None:
        balancer.apply(ALL)
        balancer.tally(f"{VIP}:90", 3, sources=["198.18.0.7", "198.18.0.8", "198.18.0.9"])
        balancer.tally(f"{VIP}:91", 3)
        outcome = balancer.apply(ALL)
        assert (outcome.changed, outcome.diff) == (False, "")


def test_forwarding_that_was_turned_off(balancer: Balancer) -> None:
    balancer.apply(DECLARED)
    good = balancer.snapshot()
    balancer.host.sysctl({"ipv4/ip_forward": 0})
    assert "ip_forward" in repaired(balancer, good)
