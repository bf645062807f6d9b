# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from the results of checks, without any check."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.health import agent_line, state
from _natlb.health.state import BackendState, Outcome, State, ramp
from _natlb.model.health import Health
from hypothesis import given
from hypothesis import strategies as st

#: What came of a check, in one letter; `u`: the balancer could not ask.
OUTCOMES = {
    "+": Outcome("up", "yes"),
    "-": Outcome("down", "no"),
    "u": Outcome("unasked", "no descriptor left"),
    "U": Outcome("up", "says up", None, certain=True),
    "H": Outcome("up", "says 50%", 0.5, certain=True),
    "D": Outcome("down", "says down", None, certain=True),
    "R": Outcome("drain", "says drain", None, certain=True),
}
SHOWN = {"unknown": "?", "up": "+", "down": "-", "drain": "r"}


@pytest.mark.parametrize(
    ("kept", "results", "states"),
    [
        # The first success is enough for who has never failed; a failure needs others.
        ("unknown", "+", "+"),
        ("unknown", "---", "??-"),
        ("unknown", "--+", "??+"),
        # fall 3, rise 2
        ("up", "--+--+---", "++++++++-"),
        ("down", "+-+-++", "-----+"),
        ("down", "---", "---"),
        ("up", "+++", "+++"),
        # What the balancer could not ask counts for nothing, and breaks no row.
        ("up", "-u-u-", "++++-"),
        ("unknown", "uuu", "???"),
        # What a backend says itself holds at once.
        ("up", "D", "-"),
        ("up", "RURD", "r+r-"),
        ("down", "U", "+"),
        ("drain", "---", "rr-"),
        ("drain", "-+-", "rrr"),
        ("drain", "--+--+", "rrrrrr"),
        ("drain", "++", "r+"),
    ],
)
def test_states(kept: Any, results: str, states: str) -> None:
    found = BackendState(kept)
    shown, news = "", 0
    for letter in results:
        news += found.take(OUTCOMES[letter], fall=3, rise=2, now=0.0)
        shown += SHOWN[found.state]
    assert shown == states
    assert news == sum(before != after for before, after in zip(SHOWN[kept] + states, states, strict=False))


@pytest.mark.parametrize(
    ("kept", "results", "reason"),
    [
        ("up", "---", "no, 3 of 3"),
        ("down", "++", "yes, 2 of 2"),
        ("unknown", "+", ""),
        ("unknown", "---", "no, 3 of 3"),
        ("up", "D", "says down"),
    ],
)
def test_reasons(kept: Any, results: str, reason: str) -> None:
    found = BackendState(kept)
    assert [found.take(OUTCOMES[letter], 3, 2, 0.0) for letter in results][-1]
    assert found.reason == reason


def test_a_weight_is_news() -> None:
    found = BackendState("up")
    assert [found.take(OUTCOMES[letter], 3, 2, 0.0) for letter in "UHHUD"] == [False, True, False, True, True]
    assert found.weight is None


@pytest.mark.parametrize(("result", "then", "news"), [("-", "down", True), ("+", "up", False)])
def test_a_suspect_is_judged_by_one_check(result: str, then: str, news: bool) -> None:
    found = BackendState("up")
    found.suspect(fall=3)
    assert found.take(OUTCOMES[result], 3, 2, 0.0) is news
    assert found.state == then
    assert found.reason == ("no, clients get no answer" if news else "")
    assert found.count == 0


def test_a_suspicion_that_was_wrong_is_forgotten() -> None:
    found = BackendState("up")
    found.suspect(fall=3)
    assert [found.take(OUTCOMES[letter], 3, 2, 0.0) for letter in "+--"] == [False, False, False]
    found.suspect(fall=3)
    assert found.take(OUTCOMES["-"], 3, 2, 0.0)
    assert found.reason == "no, 3 of 3"


def test_a_backend_that_flaps_needs_ever_more_to_come_back() -> None:
    """Twice as many successes each time that it goes down within five minutes, up to eight times as many."""
    found = BackendState("up")

    def successes(now: float) -> int:
        """How many it takes once it is down."""
        for _time in range(3):
            found.take(OUTCOMES["-"], 3, 2, now)
        assert found.state == "down"
        count = 0
        while found.state == "down":
            count += 1
            found.take(OUTCOMES["+"], 3, 2, now)
        assert found.reason == f"yes, {count} of {count}"
        return count

    assert [successes(now) for now in (0, 10, 300, 301, 302)] == [2, 4, 8, 16, 16]
    assert [successes(now) for now in (700, 800, 1101)] == [2, 4, 2]


def test_first_checks_are_spread_over_one_interval() -> None:
    health = Health("tcp")
    due = sorted(state.first_due(f"tcp 10.0.{i // 250}.{i % 250}:80", health, 100.0) for i in range(1000))
    assert due[0] >= 100
    assert due[-1] <= 102
    tenths = [sum(100 + n / 10 <= moment + 1e-6 < 100 + (n + 1) / 10 for moment in due) for n in range(20)]
    assert min(tenths) > 20
    assert max(tenths) < 100
    assert state.first_due("a", Health("tcp", interval_s=3600), 0.0) <= state.LONGEST_SPREAD_S


@pytest.mark.parametrize(
    ("health", "changing", "low", "high"),
    [
        (Health("tcp"), False, 2, 2),
        (Health("tcp"), True, 2, 2),
        (Health("tcp", fast_interval_s=0.5), True, 0.5, 0.5),
        (Health("tcp", fast_interval_s=0.5), False, 2, 2),
        (Health("tcp", jitter_s=0.4), False, 1.6, 2),
        (Health("tcp", jitter_s=1, fast_interval_s=0.5), True, 0.25, 0.5),
    ],
)
def test_intervals(health: Health, changing: bool, low: float, high: float) -> None:
    found = [state.next_due("web", health, changing, 10.0, number) - 10 for number in range(100)]
    assert min(found) >= low - 1e-9
    assert max(found) <= high + 1e-9
    assert (len({round(interval, 6) for interval in found}) > 50) == (low != high)
    assert found == [state.next_due("web", health, changing, 10.0, number) - 10 for number in range(100)]


def test_checks_begin_together_and_no_later() -> None:
    """A wake of the agent costs more than a check: of 1,000 checks every 2 s there are 20 in 2 s."""
    health = Health("tcp")
    first = [state.first_due(f"backend {number}", health, 100.0) for number in range(1000)]
    # Each begins a little late, as a process that waits does.
    following = [state.next_due("", health, False, moment + 0.001, 1) for moment in first]
    assert len({round(moment, 6) for moment in following}) <= 21
    assert all(1.9 <= after - before <= 2.002 for before, after in zip(first, following, strict=True))


def test_a_check_that_begins_early_keeps_its_place() -> None:
    """One does where another one is due within 10 ms: it is not to come ever more often."""
    moment = 100.0
    for number in range(50):
        moment = state.next_due("", Health("tcp"), False, moment - 0.008, number)
    assert moment == pytest.approx(200)


@pytest.mark.parametrize("interval_s", [0.1, 0.37, 1, 2, 7.3, 3600])
def test_the_grid_is_fine_beside_the_interval(interval_s: float) -> None:
    health = Health("tcp", interval_s=interval_s)
    moment = 1000.0
    for number in range(20):
        following = state.next_due("", health, False, moment + 0.0005, number)
        assert (1 - state.GRID_PART) * interval_s <= following - moment <= interval_s + 0.0006
        moment = following
    assert moment - 1000.0 >= 19.9 * interval_s


@pytest.mark.parametrize("slow_start_s", [0.0, 0.1, 1.0, 30.0, 7.3, 3600.0])
def test_a_backend_that_comes_back_reaches_its_weight_in_ten_steps(slow_start_s: float) -> None:
    shares, elapsed = [], 0.0
    while True:
        share, following = ramp(elapsed, slow_start_s)
        if share is None or following is None:
            break
        assert following > elapsed
        shares.append(share)
        elapsed = following
    assert shares == ([] if not slow_start_s else [n / 10 for n in range(1, 10)])
    assert elapsed == pytest.approx(slow_start_s)
    for share in shares:
        assert ramp(state.elapsed_s(share, slow_start_s), slow_start_s)[0] == share


@pytest.mark.parametrize(
    ("line", "found", "weight", "reason"),
    [
        ("up", "up", None, "it says 'up'"),
        ("UP\n", "up", None, "it says 'UP'"),
        ("ready", "up", None, "it says 'ready'"),
        ("75%", "up", 0.75, "it says '75%'"),
        ("up 75%", "up", 0.75, "it says 'up 75%'"),
        ("75%,ready", "up", 0.75, "it says '75%,ready'"),
        ("100%", "up", None, "it says '100%'"),
        ("250%", "up", None, "it says '250%'"),
        ("0%", "drain", None, "it says '0%'"),
        ("drain", "drain", None, "it says 'drain'"),
        ("up,drain 50%", "drain", None, "it says 'up,drain 50%'"),
        ("maint", "down", None, "it says 'maint'"),
        ("down # out of disk", "down", None, "it says 'down': out of disk"),
        ("down#up", "down", None, "it says 'down': up"),
        ("stopped", "down", None, "it says 'stopped'"),
        ("fail", "down", None, "it says 'fail'"),
        ("up down", "down", None, "it says 'up down'"),
        ("up maxconn:30", "up", None, "it says 'up maxconn:30'"),
        ("up \x1b[31m", "up", None, "it says 'up ?[31m'"),
    ],
)
def test_lines_of_agents(line: str, found: State, weight: float | None, reason: str) -> None:
    assert agent_line.parse(line) == Outcome(found, reason, weight, certain=True)


@pytest.mark.parametrize("line", ["", "#up", "-5%", "75", "maxconn:30", "upp", "HTTP/1.1 200 OK", "%", "99999999%"])
def test_lines_that_mean_nothing_are_failures_like_others(line: str) -> None:
    found = agent_line.parse(line)
    assert found.state == "down"
    assert not found.certain


@given(st.text(max_size=60))
def test_no_line_of_an_agent_ends_in_a_traceback(line: str) -> None:
    assert agent_line.parse(line).reason.isprintable()


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([b"up\n"], "up"),
        ([b"u", b"p", b"\r\n"], "up"),
        ([b"up", b""], "up"),
        ([b"\r\nup\n"], "up"),
        ([b"up\ndown\n"], "up"),
        ([b"up"], None),
        ([b""], "down"),
        ([b"x" * 2000], "down"),
    ],
)
def test_a_line_ends_at_its_end(parts: list[bytes], found: str | None) -> None:
    line = agent_line.Line()
    outcomes = [line.feed(part) for part in parts]
    assert outcomes[:-1] == [None] * (len(parts) - 1)
    assert (outcomes[-1].state if outcomes[-1] else None) == found
