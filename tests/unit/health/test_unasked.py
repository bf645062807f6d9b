# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of checks that the balancer itself cannot make."""

from __future__ import annotations

from _natlb.health.state import Outcome
from _natlb.health.unasked import Unasked

NO_PROGRAM = Outcome("unasked", "cannot run /opt/probe: No such file or directory")
ONE = "10.0.0.3:80 cannot be checked: cannot run /opt/probe: No such file or directory"


def test_it_is_told_once_and_so_is_its_end() -> None:
    found = Unasked()
    assert found.told(0.0) == ""
    for moment in (1.0, 100.0, 200.0):
        found.note("a", "10.0.0.3:80", NO_PROGRAM)
        assert found.told(moment) == (ONE if moment == 1.0 else "")
    found.note("a", "10.0.0.3:80", Outcome("down", "exit status 1"))
    assert found.told(201.0) == "all checks can be made again"
    assert found.told(202.0) == ""


def test_many_are_told_of_together() -> None:
    found = Unasked()
    for number in range(1000):
        found.note(number, "10.0.0.3:80", NO_PROGRAM)
    assert found.told(1.0) == f"{ONE} (and 999 more)"


def test_what_comes_and_goes_is_told_once_a_minute() -> None:
    found, lines = Unasked(), []
    for second in range(120):
        found.note("a", "10.0.0.3:80", NO_PROGRAM if second % 2 else Outcome("up"))
        lines.append(found.told(float(second)))
    assert [line for line in lines if line] == [ONE, "all checks can be made again"] * 2


def test_what_is_made_no_more_is_forgotten() -> None:
    found = Unasked()
    found.note("a", "10.0.0.3:80", NO_PROGRAM)
    found.discard("a")
    assert found.told(1.0) == ""
