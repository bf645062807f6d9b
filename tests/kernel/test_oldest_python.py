# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole runs of the core by the oldest Python that a target may have."""

from __future__ import annotations

from typing import Any

import oldest_python
import pytest
from kernel_lab import drive
from kernel_lab.balancer import Balancer
from kernel_lab.topology import NAMES, VIP
from shapes import ALL, CHANGED, EGRESS


@pytest.fixture(scope="module")
def python() -> str:
    return oldest_python.find()


def balance(balancer: Balancer, python: str, *declared: Any, **options: Any) -> Any:
    options.setdefault("engine", balancer.engine)
    if balancer.variant:
        options["iptables_variant"] = balancer.variant
    root = str(balancer.etc.parent)
    return balancer.host.call(drive.balance_by, python, root, *declared, **options)


def test_a_host_with_it_and_one_with_the_newest_have_the_same_rules(balancer: Balancer, python: str) -> None:
    assert balance(balancer, python, ALL, EGRESS)["transaction"] == "replace"
    assert balancer.tally(f"{VIP}:53", 8) == dict.fromkeys(NAMES, 2)
    outcome = balancer.apply(ALL, EGRESS)
    assert (outcome.changed, outcome.diff) == (False, "")
    assert balance(balancer, python, ALL, EGRESS)["transaction"] == "none"


def test_a_change_and_a_removal(balancer: Balancer, python: str) -> None:
    balancer.apply(ALL, EGRESS)
    change = balance(balancer, python, CHANGED, EGRESS, rollback_after=30)
    assert change["transaction"] in ("delta", "replace")
    balancer.host.call(drive.confirm, str(balancer.etc.parent), change["token"])
    assert not balancer.apply(CHANGED, EGRESS).changed
    assert balance(balancer, python, [], state="absent")["transaction"] == "remove"
    assert balancer.ours_left() == []
