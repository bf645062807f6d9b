# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run that fails half way puts back what it has done already, and says so."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_lab.balancer import Balancer
from kernel_lab.topology import NAMES
from test_rollback import DUAL, OTHER, complaints, look, root, undone


@pytest.mark.parametrize("rollback_after", [0, 30])
def test_files_cannot_be_written(balancer: Balancer, rollback_after: int) -> None:
    """Found out before the rules are touched, or at the latest when the change would be confirmed."""
    balancer.apply(DUAL)
    was = look(balancer)
    kept = balancer.etc.rename(root(balancer) / "kept")
    balancer.etc.write_text("in the way")
    with pytest.raises(Exception, match=r"etc"):
        balancer.apply(OTHER, rollback_after=rollback_after)
    balancer.etc.unlink()
    kept.rename(balancer.etc)
    assert look(balancer) == was
    assert not list(root(balancer).glob("run/rollback.*"))
    assert balancer.tally(count=4) == dict.fromkeys(NAMES, 1)


def test_drift_can_be_tried_out(balancer: Balancer) -> None:
    """What goes back is what was live, not what was declared: somebody else's change to our rules as well."""
    balancer.apply(DUAL)
    _damage(balancer)
    was = look(balancer)
    outcome: Any = balancer.apply(DUAL, rollback_after=1)
    assert outcome.changed
    undone(balancer)
    assert complaints(balancer) == []
    assert look(balancer) == was


def _damage(balancer: Balancer) -> None:
    if balancer.nftables:
        lines = ["add rule ip natlb prerouting tcp dport 4444 counter accept"]
        lines.append("delete element ip natlb slot_tcp { 192.0.2.10 . 80 . 0 }")
        balancer.host.run("nft", "-f", "-", stdin="\n".join(lines) + "\n")
    else:
        words = "-w -t nat -A NATLB.web.tcp -p tcp --dport 4444 -j ACCEPT"
        balancer.host.run(f"iptables-{balancer.variant}", *words.split())


def test_a_run_of_its_own_afterwards(balancer: Balancer) -> None:
    """Once it is undone, the same change can be made for good."""
    balancer.apply(DUAL)
    balancer.apply(OTHER, rollback_after=1)
    undone(balancer)
    assert balancer.apply(OTHER).changed
    assert balancer.tally(count=2) == {"web2": 2}
    assert not balancer.apply(OTHER, rollback_after=1).changed


def test_a_cache_that_cannot_be_written_fails_no_finished_run(balancer: Balancer) -> None:
    balancer.apply(DUAL)
    normal = root(balancer) / "run" / "normal.json"
    normal.unlink()
    normal.mkdir()
    outcome = balancer.apply(OTHER)
    assert any("the change is made, but" in warning for warning in outcome.warnings)
    assert balancer.tally(count=2) == {"web2": 2}
    normal.rmdir()
    assert not balancer.apply(OTHER).changed


def test_a_change_that_was_undone_leaves_nothing_behind_a_removal(balancer: Balancer) -> None:
    balancer.apply(DUAL)
    balancer.apply(OTHER, rollback_after=1)
    undone(balancer)
    assert (root(balancer) / "run" / "undone").exists()
    balancer.remove()
    assert list(root(balancer).iterdir()) == []
