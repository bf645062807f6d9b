# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel tells of nf_tables over netlink, beside what nft prints."""

from __future__ import annotations

from typing import Any

from _natlb.host import nf_tables
from _natlb.host.nf_tables import BaseChain
from kernel_lab.topology import Lab

RULESET = """
table netdev a {
    chain i { type filter hook ingress devices = { front, "back" } priority filter + 5; policy accept; }
    chain j { type filter hook ingress device "lo" priority filter; policy drop; }
}
table bridge b {
    chain k { type filter hook prerouting priority dstnat - 1; policy accept; }
}
table inet c {
    set s { type ipv4_addr; }
    chain l { type nat hook postrouting priority srcnat; policy accept; }
    chain m { }
}
table ip6 d {
    chain n { type route hook output priority mangle; policy accept; }
}
"""


def test_base_chains(lab: Lab) -> None:
    lab.balancer.run("nft", "-f", "-", stdin=RULESET)
    found: Any = lab.balancer.call(nf_tables.base_chains)
    assert sorted(found) == sorted(
        [
            BaseChain("netdev", "a", "i", "filter", "ingress", 5, ("back", "front")),
            BaseChain("netdev", "a", "j", "filter", "ingress", 0, ("lo",)),
            BaseChain("bridge", "b", "k", "filter", "prerouting", -301),
            BaseChain("inet", "c", "l", "nat", "postrouting", 100),
            BaseChain("ip6", "d", "n", "route", "output", -150),
        ]
    )
    tables: Any = lab.balancer.call(nf_tables.tables)
    assert sorted(tables) == [("bridge", "b"), ("inet", "c"), ("ip6", "d"), ("netdev", "a")]
    assert len(lab.balancer.call(nf_tables.sets, "inet", "c")) == 1
    assert lab.balancer.call(nf_tables.sets, "ip6", "d") == []
    assert lab.balancer.call(nf_tables.sets, "ip", "none") == []


def test_a_list_in_many_parts(lab: Lab) -> None:
    chains = "".join(f"chain c{i} {{ type filter hook input priority {i}; }}\n" for i in range(900))
    others = "".join(f"chain other_{i} {{ }}\n" for i in range(3000))
    lab.balancer.run("nft", "-f", "-", stdin=f"table ip many {{\n{chains}{others}}}\n")
    found: Any = lab.balancer.call(nf_tables.base_chains)
    assert [chain.priority for chain in found] == list(range(900))


def test_a_kernel_without_rules_has_none(lab: Lab) -> None:
    assert lab.balancer.call(nf_tables.base_chains) == []
    assert lab.balancer.call(nf_tables.tables) == []
