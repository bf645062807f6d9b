# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`method: least_connections`: long connections level out, and nobody is run over meanwhile."""

from __future__ import annotations

from collections import Counter

from kernel_lab import server, traffic
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import NAMES, PORTS, VIP, WEB
from test_agent import running

HELD, RATE, SECONDS = 400, 50, 10
#: No backend is dealt more than twice its fair share. Turns begin anew whenever slots are dealt, which may give one
#: connection more, and a second of the test may see two such beginnings and a half of the turn before.
MOST = 2 + 3 / (RATE / len(WEB))


def active(balancer: Balancer) -> dict[str, int]:
    (found,) = balancer.info("web")["services"]
    return {item["name"]: item["active_connections"] for item in found["backends"]}


def test_a_backend_that_was_started_anew_fills_up(balancer: Balancer) -> None:
    with running(balancer, service(method="least_connections"), ready="1 services") as here:
        held = balancer.hold(count=HELD)
        assert set(Counter(answer.name for _handle, answer in held).values()) == {HELD // len(WEB)}
        balancer.lab.backends["web4"].call(server.crash)
        balancer.lab.backends["web4"].call(server.start, "web4", PORTS)
        names = list(balancer.client.begin(traffic.hold_more, f"{VIP}:80", RATE * SECONDS, RATE, 5).result(timeout=60))
        found = active(balancer)
        mean = sum(found.values()) / len(found)
        worst = max(abs(count / mean - 1) for count in found.values())
        fair = RATE / len(WEB)
        seconds = [Counter(names[at : at + RATE])["web4"] / fair for at in range(0, len(names), RATE)]
        print(f"{balancer.engine} {balancer.variant}: {found}, {100 * worst:.1f} % off after {SECONDS} s")
        print(f"  its arrivals in each second, as multiples of its fair share: {seconds}")
        assert worst < 0.1
        assert 1.5 < max(seconds) <= MOST
        again = balancer.apply([service(method="least_connections")], program=None)
        assert not again.changed, again.diff
        assert here.said() == ["1 services, 0 of them with health checks"], "nothing else was to be said"


def test_what_does_not_last_is_dealt_in_turn(balancer: Balancer) -> None:
    """Connections that end at once leave nothing to level, so slots stay as they are."""
    with running(balancer, service(method="least_connections"), ready="1 services"):
        found = balancer.client.begin(traffic.attempts, f"{VIP}:80", 300, 100, timeout_s=5).result(timeout=60)
        names = Counter(traffic.Attempt(*item).answer.name for item in found)
        assert all(60 <= names[name] <= 90 for name in NAMES), names


def test_without_its_agent_it_takes_turns(balancer: Balancer) -> None:
    balancer.apply([service(method="least_connections")])
    assert set(balancer.tally(count=40).values()) == {10}
    assert not balancer.apply([service(method="least_connections")]).changed
