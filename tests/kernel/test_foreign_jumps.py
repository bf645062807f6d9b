# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody's own chain in iptables leads into a chain of ours."""

from __future__ import annotations

import pytest
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import VIP
from test_rollback import undone

pytestmark = pytest.mark.engines("iptables-nft", "iptables-legacy")

GONE = service("gone", listen=[f"{VIP}:81"], backends=webs(port=80))


def nat(balancer: Balancer, *words: str) -> str:
    return balancer.host.run(f"iptables-{balancer.variant}", "-w", "10", "-t", "nat", *words)


def chains(balancer: Balancer) -> list[str]:
    return [line.split()[1] for line in nat(balancer, "-S").splitlines() if line.startswith("-N NATLB.gone.")]


@pytest.fixture
def led(balancer: Balancer) -> str:
    """The rule of MINE that leads into a chain of the service `gone`."""
    balancer.apply([service(), GONE])
    (chain,) = chains(balancer)
    rule = f"-A MINE -s 1.2.3.4/32 -j {chain}"
    nat(balancer, "-N", "MINE")
    nat(balancer, *rule.split())
    return rule


def test_it_stays_and_is_no_drift(balancer: Balancer, led: str) -> None:
    assert balancer.info()["drift"] is False
    assert not balancer.apply([service(), GONE]).changed
    balancer.apply([service(), {**GONE, "method": "random"}])
    assert led in nat(balancer, "-S", "MINE")


def test_a_chain_that_somebody_leads_to_is_emptied_and_told(balancer: Balancer, led: str) -> None:
    outcome = balancer.apply([service()])
    assert led in nat(balancer, "-S", "MINE")
    (chain,) = chains(balancer)
    assert nat(balancer, "-S", chain).splitlines() == [f"-N {chain}"]
    (warning,) = [text for text in outcome.warnings if "MINE" in text]
    assert warning == (
        f"iptables-{balancer.variant}, table nat: chain {chain} is no longer needed, but the foreign rule `{led}` "
        "leads to it, so it stays, empty; delete that rule if you do not need it"
    )
    again = balancer.apply([service()])
    assert (again.changed, warning in again.warnings) == (False, True)
    assert balancer.apply([service(), GONE]).changed
    assert balancer.tally(f"{VIP}:81", 4) == balancer.tally(count=4)
    balancer.apply([service()])
    nat(balancer, "-D", *led.split()[1:])
    balancer.apply([service()])
    assert chains(balancer) == []


def test_a_removal_leaves_the_rule_and_what_it_leads_to(balancer: Balancer, led: str) -> None:
    balancer.remove()
    assert led in nat(balancer, "-S", "MINE")
    assert nat(balancer, "-S").count("NATLB") == 2, "the chain, and the rule of others"
    assert not balancer.remove().changed


def test_a_chain_that_lets_forwarded_connections_pass(balancer: Balancer) -> None:
    program = [f"iptables-{balancer.variant}", "-w", "10"]
    balancer.host.run(*program, "-P", "FORWARD", "DROP")
    balancer.apply([service()], firewall="accept")
    balancer.host.run(*program, "-N", "MINE")
    rule = "-A MINE -s 1.2.3.4/32 -j NATLB.forward"
    balancer.host.run(*program, *rule.split())
    again = balancer.apply([service()], firewall="accept")
    assert (again.changed, [text for text in again.warnings if "MINE" in text]) == (False, [])
    balancer.remove()
    assert rule in balancer.host.run(*program, "-S", "MINE")
    assert not balancer.remove().changed
    balancer.host.run(*program, "-D", *rule.split()[1:])
    balancer.remove()
    assert balancer.ours_left() == []


def test_a_change_that_is_undone(balancer: Balancer, led: str) -> None:
    """Back to a host on which the chain is empty, and cannot go."""
    balancer.apply([service()])
    assert led in nat(balancer, "-S", "MINE")
    before = balancer.snapshot()
    kept = balancer.etc.rename(balancer.etc.parent / "kept")
    balancer.etc.write_text("in the way")
    with pytest.raises(Exception, match=r"etc"):
        balancer.apply([service(), GONE], rollback_after=60)
    balancer.etc.unlink()
    kept.rename(balancer.etc)
    assert balancer.snapshot() == before
    balancer.apply([service(), GONE], rollback_after=1)
    undone(balancer)
    assert balancer.snapshot() == before
