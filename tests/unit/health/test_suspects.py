# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backends clients wait for in vain: told by connections that are unanswered in two looks, each of them once."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.errors import HostError
from _natlb.health.state import Outcome
from _natlb.health.suspects import AGAIN_S, BURST, EVERY_S, IDLE_S, Suspect, Suspects
from _natlb.health.volley import Volley

WEB = Suspect("ip", "tcp", "10.0.0.4", 80)
DNS = Suspect("ip", "udp", "10.0.0.5", 53)


class Table:
    """Connection tracking: what is unanswered, what is answered, and what a look at it costs."""

    def __init__(self, cost_s: float = 0.001) -> None:
        self.waiting: set[tuple[Suspect, bytes]] = set()
        self.answered: set[bytes] = set()
        self.cost_s, self.spent_s = cost_s, 0.0
        self.fails = False
        #: How many packets were forwarded; None for one more at each time.
        self.forwarded: int | None = None
        self.asked = 0

    def read(self) -> list[tuple[Suspect, bytes]]:
        self.spent_s += self.cost_s
        return list(self.waiting)

    def of(self, _suspect: Suspect) -> set[bytes]:
        if self.fails:
            raise HostError("conntrack: no")
        return set(self.answered)

    def traffic(self) -> int:
        self.asked += 1
        return self.asked if self.forwarded is None else self.forwarded

    def suspects(self) -> Suspects:
        return Suspects(self.read, self.of, lambda: self.spent_s, self.traffic)


def test_a_connection_is_overdue_in_its_second_look_and_speaks_once() -> None:
    table = Table()
    suspects = table.suspects()
    table.waiting = {(WEB, b"1"), (DNS, b"2")}
    assert suspects.scan(0.0) == set()
    assert suspects.due == AGAIN_S
    table.waiting = {(WEB, b"1"), (DNS, b"3")}
    assert suspects.scan(0.2) == {WEB}
    assert suspects.scan(0.4) == {DNS}
    assert suspects.scan(0.6) == set(), "one-way datagrams would have a check every time"
    table.waiting |= {(WEB, b"4")}
    assert suspects.scan(0.8) == set()
    assert suspects.scan(1.0) == {WEB}


@pytest.mark.parametrize(("cost_s", "pause_s"), [(0.001, EVERY_S), (0.01, 0.5), (0.1, 5.0)])
def test_looks_take_two_percent_of_the_time(cost_s: float, pause_s: float) -> None:
    """Also where some connection is unanswered at any time, as on a balancer with a lot to do."""
    table = Table(cost_s)
    suspects = table.suspects()
    suspects.scan(0.0)
    assert suspects.due == pytest.approx(pause_s)
    now, number = suspects.due, 0
    table.spent_s, end = 0.0, now + 200 * pause_s
    while now < end:
        number += 1
        table.waiting = {(WEB, b"%d" % number)}
        assert suspects.scan(now) == set()
        now = suspects.due
    assert table.spent_s <= (2 * 200 + BURST) * cost_s, "a second look for each, at the most"


def test_a_host_that_forwards_nothing_is_looked_at_less_often() -> None:
    table = Table(cost_s=0.01)
    table.forwarded = 7
    suspects = table.suspects()
    now = 0.0
    while now < 100:
        suspects.scan(now)
        now = suspects.due
    assert table.spent_s <= 0.01 * (100 / IDLE_S + 2)
    table.forwarded, table.waiting = 8, {(WEB, b"1")}
    assert suspects.scan(now) == set()
    assert suspects.due == now + AGAIN_S
    assert suspects.scan(suspects.due) == {WEB}, "a client that waits sends nothing meanwhile"


def test_whether_anybody_was_answered_meanwhile() -> None:
    table = Table()
    table.answered = {b"1"}
    has_answered = table.suspects().answered_from_now_on(WEB)
    assert not has_answered()
    table.answered = set()
    assert not has_answered(), "connections that end are no answers"
    table.answered = {b"2"}
    assert has_answered()
    table.answered, table.fails = set(), True
    assert has_answered(), "in doubt the suspicion is wrong"


class Fake:
    """A check whose result a test says."""

    look_s = 0.0
    is_connecting = True

    def __init__(self, done: Any) -> None:
        self.done, self.closed, self.started = done, False, False

    def start(self) -> None:
        self.started = True

    def poll(self) -> None:
        """Nothing."""

    def late(self, within_s: float) -> None:
        self.done(Outcome("down", f"late {within_s}"))

    def close(self) -> None:
        self.closed = True


def volley(size: int = 3) -> tuple[Volley, list[Fake], list[Outcome]]:
    made: list[Fake] = []
    told: list[Outcome] = []

    def make(done: Any) -> Fake:
        made.append(Fake(done))
        return made[-1]

    found = Volley(make, size, told.append)
    found.start()
    assert all(fake.started for fake in made)
    return found, made, told


def test_one_answer_of_several_is_one() -> None:
    _found, made, told = volley()
    made[1].done(Outcome("down", "refused"))
    made[0].done(Outcome("up", "accepted"))
    assert told == [Outcome("up", "accepted")]
    assert made[2].closed
    made[2].done(Outcome("down", "late"))
    assert len(told) == 1


def test_none_of_several_is_a_failure() -> None:
    found, made, told = volley()
    made[2].done(Outcome("down", "refused"))
    assert told == []
    found.late(0.5)
    assert told == [Outcome("down", "late 0.5")]


def test_one_that_is_given_up_says_nothing() -> None:
    found, made, told = volley()
    found.close()
    made[0].done(Outcome("up"))
    assert told == []
    assert all(fake.closed for fake in made)
