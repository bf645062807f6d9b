# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drills: a short form as a test, the full one with NATLB_DRILLS=full (`make drills`), which writes the page."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_table import FULL, SEED, Row, Rows
from faults import DRILLS, Field
from kernel_lab.balancer import ENGINES, Balancer
from kernel_lab.topology import Lab

pytestmark = pytest.mark.skipif(
    bool(os.geteuid()) or shutil.which("nft") is None, reason="needs root, network namespaces, nft and iptables"
)


@pytest.fixture(scope="module")
def wired() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    lab.close()


#: The short form leaves out what the two variants of iptables have in common.
CASES = [
    (name, engine)
    for name in DRILLS
    for engine in ENGINES
    if FULL or engine != "iptables-legacy" or name in ("killed", "killed_at_each_call", "unconfirmed", "program_fails")
]


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_drill(name: str, engine: str, wired: Lab, rows: Rows, tmp_path: Path) -> None:
    drill, short, full = DRILLS[name]
    wired.reset()
    field = Field(Balancer(wired, engine, tmp_path), random.Random(zlib.crc32(f"{SEED} {name} {engine}".encode())))
    row = drill(field, full if FULL else short)
    print(f"\n{engine}: {row.line()}", end="")
    assert row.injected
    rows.setdefault(name, Row(row.fault)).add(row)
    assert row.good, row
