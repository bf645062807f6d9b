# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One connection at a time, each closed before the next, under a limit of connections at a time.

The kernel takes closed ones off its count once a tick. How many are refused for it, docs/services.md says by what is
printed here.
"""

from __future__ import annotations

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import NAMES, VIP

GUEST = "198.18.7.7"
COUNT = 60
#: Longer than any tick (CONFIG_HZ=100).
PAUSE_S = 0.02


def served(balancer: Balancer, limit: int, pause_s: float = 0.0) -> int:
    answers = balancer.client.call(traffic.back_to_back, f"{VIP}:80", COUNT, GUEST, pause_s)
    seen = traffic.tally(traffic.Answer(*answer) for answer in answers)
    assert set(seen) <= {*NAMES, "ConnectionRefusedError"}
    print(f"limit {limit}, pause {1000 * pause_s:.0f} ms: {COUNT - seen['ConnectionRefusedError']} of {COUNT}")
    return COUNT - seen["ConnectionRefusedError"]


@pytest.mark.parametrize("limit", [3, 10])
def test_without_a_pause_some_are_refused(balancer: Balancer, limit: int) -> None:
    balancer.apply([service(max_connections_per_client=limit)])
    assert served(balancer, limit) >= limit


@pytest.mark.parametrize("limit", [1, 3])
def test_with_a_pause_none_is_refused(balancer: Balancer, limit: int) -> None:
    balancer.apply([service(max_connections_per_client=limit)])
    assert served(balancer, limit, PAUSE_S) == COUNT
