# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the drills find the core and the kernel lab, and gives them a balancer."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE.parents[1] / "plugins" / "module_utils", HERE.parent, HERE.parent / "kernel", HERE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import fault_table  # noqa: E402
from faults import DRILLS  # noqa: E402
from kernel_lab.balancer import ENGINES  # noqa: E402
from kernel_lab.host import run_program  # noqa: E402


@pytest.fixture(scope="session")
def rows() -> Iterator[fault_table.Rows]:
    """What all drills found; after all of them, in the full form, the page is written."""
    found: fault_table.Rows = {}
    yield found
    names = [*DRILLS, "fleet", "fuzz"]
    if fault_table.FULL and set(found) == set(names) and all(row.good for row in found.values()):
        nft = run_program(["nft", "--version"], "", True).split()[1]
        fault_table.write(
            [found[name] for name in names],
            f"Engines: {', '.join(ENGINES)}, each with all of these faults. Linux {platform.release()}, nft {nft}, "
            f"Python {platform.python_version()}, seed {fault_table.SEED}.",
        )
