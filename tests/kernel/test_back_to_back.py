# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection at a time, each closed before the next, under a limit of connections at a time.

The kernel takes closed ones off its count once a tick. With iptables some are refused for it (how many is printed here,
and stands in docs/services.md). With nftables the SYN of such a client is passed over, and taken when it comes again.
"""

from __future__ import annotations

import pytest
from kernel_lab import drive, traffic
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import NAMES, VIP

GUEST = "198.18.7.7"
COUNT = 60
#: Longer than any tick (CONFIG_HZ=100).
PAUSE_S = 0.02


def opened(balancer: Balancer, count: int, pause_s: float = 0.0) -> list[traffic.Answer]:
    answers = balancer.client.call(traffic.back_to_back, f"{VIP}:80", count, GUEST, pause_s)
    return [traffic.Answer(*answer) for answer in answers]


def served(balancer: Balancer, limit: int, pause_s: float = 0.0) -> int:
    seen = traffic.tally(opened(balancer, COUNT, pause_s))
    assert set(seen) <= {*NAMES, "ConnectionRefusedError"}
    print(f"limit {limit}, pause {1000 * pause_s:.0f} ms: {COUNT - seen['ConnectionRefusedError']} of {COUNT}")
    return COUNT - seen["ConnectionRefusedError"]


@pytest.mark.engines("iptables-nft", "iptables-legacy")
@pytest.mark.parametrize("limit", [3, 10])
def test_without_a_pause_some_are_refused(balancer: Balancer, limit: int) -> None:
    balancer.apply([service(max_connections_per_client=limit)])
    assert served(balancer, limit) >= limit


@pytest.mark.engines("nftables")
@pytest.mark.parametrize("limit", [1, 3])
def test_without_a_pause_some_come_again(balancer: Balancer, limit: int) -> None:
    balancer.apply([service(max_connections_per_client=limit)])
    answers = opened(balancer, 12)
    assert [answer.error for answer in answers] == [""] * 12
    assert max(answer.resent for answer in answers) <= 1


@pytest.mark.engines("nftables")
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_who_is_over_the_limit_is_refused_when_the_syn_comes_again(balancer: Balancer, protocol: str) -> None:
    """A datagram is refused at once: nobody sends it again."""
    both = service(max_connections_per_client=2, protocol=["tcp", "udp"])
    balancer.apply([both])
    assert not balancer.apply([both]).changed
    balancer.hold(count=2, source=GUEST, protocol=protocol)
    (answer,) = balancer.ask(sources=[GUEST], protocol=protocol)
    assert (answer.error, answer.resent) == ("ConnectionRefusedError", 1 if protocol == "tcp" else 0)
    assert balancer.tally(protocol=protocol)["ConnectionRefusedError"] == 0, "another client is not"


@pytest.mark.engines("nftables")
def test_where_nobody_can_be_remembered_who_is_over_is_refused_at_once(balancer: Balancer) -> None:
    limited = [service(max_connections_per_client=1)]
    balancer.host.call(drive.balance_in_small_sets, balancer._root, 1, limited, engine="nftables")
    balancer.hold(source=GUEST)
    answers = balancer.ask(count=2, sources=[GUEST], timeout_s=0.4)
    assert [answer.error for answer in answers] == ["TimeoutError", "ConnectionRefusedError"]


@pytest.mark.parametrize("limit", [1, 3])
def test_with_a_pause_none_is_refused(balancer: Balancer, limit: int) -> None:
    balancer.apply([service(max_connections_per_client=limit)])
    assert served(balancer, limit, PAUSE_S) == COUNT
