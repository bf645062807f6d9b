# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arithmetic of the benchmark of a fleet, on figures that are easy to reckon with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import benchmark

fleet_report = benchmark("fleet_report")

SIZES = (1, 10, 50)


def cost(hosts: int) -> Any:
    return fleet_report.Cost(
        wall_s=1 + 2 * hosts, controller_s=0.5 + 0.25 * hosts, main_s=0.5 + 0.05 * hosts, others_s=0.6 * hosts
    )


@pytest.fixture
def figures() -> Any:
    costs = {(kind, size): [cost(size)] * 3 for kind in fleet_report.KINDS for size in SIZES}
    memory = {5: 200.0, 25: 600.0}
    return fleet_report.Figures(25, 10, 4, costs, {"slow": [cost(100)]}, memory, exec_s=[0.04])


def test_a_line_is_found_again(figures: Any) -> None:
    fit = figures.fit("again", "controller_s")
    assert (fit.fixed, fit.per_host, fit.r_squared) == pytest.approx((0.5, 0.25, 1.0))
    assert fit.at(1000) == pytest.approx(250.5)


def test_what_does_not_lie_on_a_line_shows(figures: Any) -> None:
    figures.costs["again", 10] = [cost(40)]
    assert figures.fit("again", "wall_s").r_squared < 0.9


def test_paper_shows_its_arithmetic(figures: Any) -> None:
    rows = [line for line in fleet_report.on_paper(figures) if line.startswith("| 10,000 | again")]
    (row,) = rows
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:] == [
        "0.5 + 10,000 x 0.250 = 2,500",
        "0.5 + 10,000 x 0.050 = 500",
        "20.8",
        "8.3",  # the main process, since 2,500 / 16 is less
        "1",
    ]


def test_forks_memory_and_pull_follow_from_the_fits(figures: Any) -> None:
    text = " ".join(" ".join(fleet_report.on_paper(figures)).split())
    assert "(0.20 + 0.60 + 0.30) / 0.20 = 6 forks keep a core busy" in text
    assert "so one is 20 MiB: 200 + (96 - 5) x 20 MiB = 2.0 GiB for 96 forks" in text
    assert "0.50 + 0.25 + 0.60 = 1.4 CPU seconds a run" in text


def test_the_aim_is_met_only_where_every_round_meets_it(figures: Any) -> None:
    assert any("3 s is met" in line for line in fleet_report.fits(figures))
    figures.costs["again", 1] = [cost(1), cost(1), fleet_report.Cost(3.1, 1, 1, 1)]
    assert any("3 s is missed" in line for line in fleet_report.fits(figures))
