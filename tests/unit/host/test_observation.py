# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan has read of the host is noted, so that the next run can tell whether it would read the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _natlb.errors import HostError
from _natlb.host import observation


def reader(*answers: object) -> observation.Watch:
    """What is noted of a function that is called for each of these answers, and fails at an exception."""
    left: Iterator[object] = iter(answers)

    @observation.observed
    def ask(_name: str) -> object:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with observation.watched() as watch:
        for answer in answers:
            if isinstance(answer, Exception):
                with pytest.raises(type(answer)):
                    ask("x")
            else:
                ask("x")
    return watch


def test_what_is_read_twice_and_is_the_same_is_one_observation() -> None:
    watch = reader({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert watch.repeatable
    assert list(watch.seen.values()) == [observation.digest({"a": 1, "b": 2})]


@pytest.mark.parametrize("answers", [("1", "2"), ("1", "2", "2"), ("1", "2", "1"), (HostError("no"),)], ids=str)
def test_what_changes_while_a_plan_is_made_is_not_known(answers: tuple[object, ...]) -> None:
    """Parts of the plan follow from either, so no later run may believe that it would come to the same."""
    assert not reader(*answers).repeatable
