# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New connections in the log of the kernel."""

from __future__ import annotations

import pytest
from kernel_lab.balancer import Balancer, service


@pytest.mark.parametrize("prefix", ["x", " ", "web: ", "Az09 .:/=#%+_,()[]<>-", "a" * 29, "x -j DROP "])
def test_a_prefix_of_ones_own(balancer: Balancer, prefix: str) -> None:
    """It is the same in the kernel, so the next run finds nothing to be done; and it is a prefix, whatever it says."""
    declared = [service(log=True, log_prefix=prefix)]
    balancer.apply(declared)
    assert balancer.tally(count=4) == {"web1": 1, "web2": 1, "web3": 1, "web4": 1}
    shown = "".join(balancer.snapshot().values())
    assert f'prefix "{prefix}"' in shown or f"prefix {prefix}\n" in shown
    assert not balancer.info()["drift"]
    assert not balancer.apply(declared).changed
    assert balancer.apply([service(log=True)]).changed
