# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long lists and large tables come, change and go in a time that has to do with their first load.

`NATLB_LARGE=1` makes them as large as anybody has them: 100,000 networks and a million slots (some minutes).
"""

from __future__ import annotations

import os
import time

import pytest
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import NAMES, OTHER_VIP, VIP

FULL = bool(os.environ.get("NATLB_LARGE"))
NETWORKS, SERVICES = (100_000, 980) if FULL else (20_000, 40)
WITHIN_S = 900
#: Of the first load. Deleted one by one, 20,001 networks took nft 1.0.6 two thousand times as long as to load.
MOST = 8

LISTED = [f"{1 + (i >> 15)}.{i >> 7 & 255}.{(i & 127) << 1}.0/24" for i in range(NETWORKS)]
HASHED = [
    service(f"h{i}", listen=f"{OTHER_VIP}:{1000 + i}", method="source_hash", backends=webs(port=80))
    for i in range(SERVICES)
]
FEWER = [{**item, "backends": webs("web1", "web2", "web3", port=80)} for item in HASHED]

LISTS: list[list[Mapping]] = [
    [service(allow_from=networks, backends=webs("web1"))]
    for networks in (LISTED, LISTED[1:], LISTED[: NETWORKS // 2], ["198.18.0.0/16"])
]
SLOTS: list[list[Mapping]] = [
    [service(), *others] for others in (HASHED, [*FEWER[:1], *HASHED[1:]], FEWER[: SERVICES // 2], [])
]


@pytest.mark.slow
def test_networks_added_changed_by_one_by_half_and_removed(balancer: Balancer) -> None:
    in_steps(balancer, LISTS)


@pytest.mark.slow
@pytest.mark.engines("nftables")
def test_slots_added_changed_by_one_by_half_and_removed(balancer: Balancer) -> None:
    in_steps(balancer, SLOTS)


def in_steps(balancer: Balancer, steps: list[list[Mapping]]) -> None:
    balancer.apply([service(listen=f"{VIP}:81", name="before")])
    took = []
    for services in steps:
        began = time.monotonic()
        outcome = balancer.apply(services, within_s=WITHIN_S)
        took.append(time.monotonic() - began)
        assert outcome.changed
    print(f"first load {took[0]:.1f} s; then one, half and all of it: {', '.join(f'{s:.1f} s' for s in took[1:])}")
    assert max(took) < MOST * took[0]
    assert sum(balancer.tally(count=4, sources=["198.18.7.7"]).values()) == 4


@pytest.mark.slow
@pytest.mark.engines("nftables")
def test_a_first_load_in_several_transactions(balancer: Balancer) -> None:
    """22,400 slots are more than one transaction takes."""
    many = [service(f"s{port}", listen=f"{OTHER_VIP}:{port}") for port in range(1000, 6600)]
    outcome = balancer.apply([service(), *many], within_s=WITHIN_S)
    assert outcome.transaction == "replace"
    assert not balancer.info()["drift"]
    assert not balancer.apply([service(), *many], within_s=WITHIN_S).changed
    assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)
