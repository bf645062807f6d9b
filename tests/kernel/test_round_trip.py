# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Properties: whatever is declared, the kernel holds it, says so when asked, and needs no second telling."""

from __future__ import annotations

import os
from typing import Any

import pytest
from _natlb.model.services import parse_config
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kernel_lab.balancer import Balancer
from strategies import Declared, egress, in_lists, services

#: More examples, and others each time, on demand.
EXAMPLES = int(os.environ.get("NATLB_EXAMPLES", "0"))

bounded = settings(
    max_examples=EXAMPLES or 20,
    derandomize=not EXAMPLES,
    database=None,
    # Making a failure small takes minutes.
    phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
    deadline=None,
    # One balancer for all examples: each change starts from what the last one left.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@bounded
@given(data=st.data())
def test_any_declaration_is_loaded_read_back_and_final(balancer: Balancer, data: st.DataObject) -> None:
    if "up1" not in balancer.host.run("ip", "link"):
        balancer.lab.uplinks()
    declared, lists = data.draw(in_lists(data.draw(services(limited=balancer.nftables))))
    outward = data.draw(egress())
    outcome = balancer.apply(declared, outward, networks=lists)
    assert outcome.changed == bool(outcome.diff)
    again = balancer.apply(declared, outward, networks=lists)
    assert (again.changed, again.diff, again.transaction) == (False, "", "none")
    config = parse_config(declared, outward, networks=lists)
    assert balancer.declared() == config
    assert balancer.serving() == _able(config)


def _able(config: Any) -> set[tuple[str, str]]:
    return {
        (service.name, backend.key)
        for service in config.services
        for family in service.families()
        for backend in [*service.serving(family), *service.stand_ins(family)]
    }


@bounded
@given(first=services(most=3, limited=False), second=services(most=3, limited=False))
@pytest.mark.engines("nftables", "iptables-nft")
def test_check_mode_foretells(balancer: Balancer, first: list[Declared], second: list[Declared]) -> None:
    balancer.apply(first)
    before = balancer.snapshot()
    told = balancer.apply(second, check=True)
    assert balancer.snapshot() == before
    done = balancer.apply(second)
    assert (told.changed, told.diff, told.transaction) == (done.changed, done.diff, done.transaction)
