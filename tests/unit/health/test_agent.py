# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent says of rules, and how it answers questions, without a kernel."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _natlb.errors import BusyError, HostError
from _natlb.health.agent import CLOSED_TIMES, FIRST_RETRY_S, Agent
from _natlb.health.forked import forked
from _natlb.health.inquiries import Followed, Inquiries
from _natlb.health.pace import SETTLE_S, UNSETTLED_S, Settling
from _natlb.host import service_manager, store, unix_socket
from _natlb.host.agent_socket import CHECKS, asked
from _natlb.model.effective import Finding, Place
from _natlb.model.entities import EMPTY
from _natlb.model.services import parse_config
from _natlb.plan.outcome import Outcome


class Running:
    """Rules that a whole reading loads again, whoever has changed them."""

    plan = None

    def __init__(self, is_current: bool) -> None:
        self.is_current = lambda: is_current

    def restore(self) -> Outcome:
        return Outcome(True, "", "nftables", "delta", 1, {}, [])

    def keep_memories(self) -> None:
        """There are none."""

    def unwritten(self) -> str:
        return ""

    def active_of(self, _services: object) -> list[Any]:
        """Nobody asks."""
        return []


@pytest.mark.parametrize("is_current", [True, False])
def test_rules_that_it_loads_again_itself_are_not_told_as_those_of_others(is_current: bool) -> None:
    said: list[str] = []
    running: Any = Running(is_current)
    checker: Any = None
    agent = Agent(running, checker, selectors.DefaultSelector(), None, lambda message, *_more: said.append(message))
    agent._settle()
    assert said == ([] if is_current else ["somebody has changed rules of natlb; they are back (delta)"])


class Busy(Running):
    """Rules that others change meanwhile: some readings fail, and some leave the FORWARD chain closed."""

    request = None
    is_left_to_another = False

    def __init__(self, failures: int = 0, is_closed: bool = False, is_current: bool = True) -> None:
        super().__init__(is_current)
        self._failures = failures
        self.is_newly_closed = lambda: is_closed
        self.config, self.findings, self.multiples = EMPTY, {}, {}
        self.to_level = list

    def restore(self) -> Outcome:
        self._failures -= 1
        if self._failures >= 0:
            raise HostError("others were quicker")
        return Outcome(False, "", "nftables", "none", 1, {}, [])


def agent_of(running: Any) -> Agent:
    checker: Any = SimpleNamespace(
        advance=lambda _now: None,
        next_due=lambda: None,
        take_events=list,
        unasked=SimpleNamespace(told=lambda _now: ""),
        set_checks=lambda *_unused: None,
    )
    return Agent(running, checker, selectors.DefaultSelector(), None, lambda *_unused, **_more: None)


def test_a_quorum_that_an_order_breaks_is_told_before_the_next_reading() -> None:
    """Where readings are rare, and though it is whole again by the next one."""
    said: list[str] = []
    running: Any = Busy(is_current=False)
    running.config = parse_config(
        [
            {
                "name": "web",
                "listen": "192.0.2.10:80",
                "min_healthy": 1,
                "health": {"type": "tcp"},
                "backends": ["10.0.0.3"],
            }
        ]
    )
    agent = agent_of(running)
    agent._say = lambda message, *_unused, **_more: said.append(message)
    agent._restore_at, agent._calm.until = None, float("inf")
    # None: another declaration is live by now, which may have no such service.
    for below in ({Place("web", "0.0.0.0", None): Finding("down", "", "0 of 1")}, None, {}):
        running.kept_below = lambda found=below: found
        agent._look_at = 0.0
        agent._act(1.0)
        assert len(said) == (2 if below == {} else 1)
    assert said == ["web is below min_healthy: 0 of 1", "web has enough healthy backends again"]


@pytest.mark.parametrize("is_left", [False, True])
def test_what_a_former_plan_has_told_is_not_told_again(is_left: bool) -> None:
    """While a change of another version waits, no plan of this one is made."""
    said: list[str] = []
    running: Any = Busy()
    running.plan = SimpleNamespace(laid=SimpleNamespace(passing=["the override of web1 has ended"]))
    running.is_left_to_another = is_left
    agent = agent_of(running)
    agent._say = lambda message, *_unused, **_more: said.append(message)
    agent._restore(1.0)
    assert ("the override of web1 has ended" in said) != is_left


@pytest.mark.parametrize("was_read", [False, True])
def test_no_trouble_is_told_once_the_whole_host_was_made_right(was_read: bool) -> None:
    """By a change of health that comes before the next attempt."""
    running: Any = Busy()
    agent = agent_of(running)
    running.find = lambda _found: Outcome(False, "", "nftables", "none", 1, {}, []) if was_read else None
    running.remember = lambda *_unused: None
    agent._complain("it is broken", 1.0)
    agent._restore_at, agent._look_at = 100.0, 100.0
    agent._found = {Place("web", "10.0.0.3", 80): Finding("down")}
    agent._do(2.0)
    assert agent._restore_at == 100.0
    assert bool(agent.troubles) != was_read


def test_after_an_error_it_tries_again_at_once_and_then_more_rarely() -> None:
    agent = agent_of(Busy(failures=8))
    pauses = []
    while agent._restore_at is not None:
        before, pause = time.monotonic(), agent._retry_s
        agent._do(max(before, agent._restore_at))
        if agent._restore_at is not None:
            assert before + pause <= agent._restore_at <= time.monotonic() + pause
            pauses.append(pause)
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert agent._retry_s == FIRST_RETRY_S


@pytest.mark.parametrize(
    ("is_closed", "is_current", "again"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_what_was_closed_while_it_read_the_host_is_looked_at_again(
    is_closed: bool, is_current: bool, again: bool
) -> None:
    """What the reading itself has left closed is not: it cannot be opened."""
    agent = agent_of(Busy(is_closed=is_closed, is_current=is_current))
    agent._restore(time.monotonic())
    assert (agent._restore_at is not None, agent._looks_for_harm) == (again, again)


def test_what_reading_after_reading_leaves_closed_is_not_hurried_for_any_more() -> None:
    """Where somebody commits all the time, the host is never as a reading has left it."""
    agent = agent_of(Busy(is_closed=True, is_current=False))
    hurried = []
    for _unused in range(CLOSED_TIMES + 2):
        agent._restore(time.monotonic())
        hurried.append(not agent._stays_closed)
    assert hurried == [True] * (CLOSED_TIMES - 1) + [False] * 3


# -- what systemd is told --------------------------------------------------------------------------------------------


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's end of sd_notify(3), with a watchdog that waits for a minute."""
    path = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind(str(path))
        here.setblocking(False)
        yield here


def told(supervisor: socket.socket) -> list[str]:
    lines = []
    with contextlib.suppress(BlockingIOError):
        while True:
            lines.append(supervisor.recv(4096).decode().strip())
    return lines


def test_systemd_hears_three_times_in_the_time_of_its_watchdog_that_it_is_alive(supervisor: socket.socket) -> None:
    """Or it would restart the agent for nothing."""
    agent = agent_of(Busy())
    for moment in (1000, 1001, 1020, 1040, 1041, 1060):
        agent._do(float(moment))
    assert told(supervisor).count("WATCHDOG=1") == 4
    assert agent._next(1061.0) <= 1080.0, "it wakes for that"


def test_systemd_hears_when_it_begins_how_it_is_and_when_it_ends(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_ending", threading.Event())
    agent = agent_of(Busy())
    agent._checker.advance = lambda _now: agent.stop()  # type: ignore[method-assign]
    agent.run()
    begins, *between, ends = told(supervisor)
    assert (begins, ends) == ("READY=1", "STOPPING=1")
    assert between == ["WATCHDOG=1", "STATUS=0 services, 0 of them with health checks"]


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    agent_of(Busy())._do(1000.0)


# -- inquiries -------------------------------------------------------------------------------------------------------


class Desk:
    """The agent's end, in a folder whose path is longer than that of a socket may be."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ("x" * 120) / "agent.sock"
        self.path.parent.mkdir()
        self.selector = selectors.DefaultSelector()
        self.answer: Any = [{"check": "tcp 10.0.0.3:80"}]
        self.inquiries = Inquiries(self.path, self.selector, {CHECKS: self.overview})

    def overview(self) -> Any:
        return self.answer

    def turn(self, times: int = 1) -> None:
        for _unused in range(times):
            for key, mask in self.selector.select(5):
                key.data(mask)

    def serve(self) -> int:
        """Answer in a process of its own."""
        child = os.fork()
        if child == 0:
            while True:
                self.turn()
        return child


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    with contextlib.closing(made.inquiries):
        yield made


@contextlib.contextmanager
def served(desk: Desk) -> Iterator[None]:
    child = desk.serve()
    try:
        yield
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_checks_are_answered(desk: Desk) -> None:
    assert desk.path.stat().st_mode & 0o777 == 0o600
    with served(desk):
        assert asked(desk.path, CHECKS) == [{"check": "tcp 10.0.0.3:80"}]
        with pytest.raises(HostError, match="the agent does not answer"):
            asked(desk.path, "what?")


def test_nobody_waits_for_one_that_does_not_read(desk: Desk) -> None:
    desk.answer = ["x" * 10_000_000]
    with contextlib.closing(unix_socket.connected(desk.path, 5)) as client:
        client.sendall(b"checks\n")
        began = time.monotonic()
        desk.turn(2)
        assert time.monotonic() - began < 2


def test_followers_are_told(desk: Desk) -> None:
    desk.inquiries.tell("nobody listens")
    with contextlib.closing(Followed(desk.path)) as one:
        desk.turn(2)
        desk.inquiries.tell("web1 of web is down", NATLB_STATE="down")
        desk.inquiries.tell("more")
        first, second = one.events()
        assert (first["message"], first["NATLB_STATE"], second["message"]) == ("web1 of web is down", "down", "more")
        assert json.loads(json.dumps(first))["time"].endswith("Z")
    desk.turn()
    desk.inquiries.tell("gone")


def test_a_follower_that_does_not_read_is_dropped(desk: Desk) -> None:
    with contextlib.closing(Followed(desk.path)) as one:
        desk.turn(2)
        for _unused in range(100):
            desk.inquiries.tell("x" * 10_000)
        assert list(one.events())
        assert one.ended


def test_an_agent_that_ends_is_noticed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with contextlib.closing(Followed(desk.path)) as one:
        desk.turn(2)
        desk.inquiries.close()
        assert list(one.events()) == []
        assert one.ended
    for path in (desk.path, tmp_path / "missing" / "agent.sock"):
        with pytest.raises(HostError, match=r"nobody listens at .*agent\.sock"):
            asked(path, CHECKS)
        with pytest.raises(HostError, match="nobody listens"):
            Followed(path)


@pytest.mark.parametrize("kind", ["work", "answer"])
def test_a_child_does_not_listen(tmp_path: Path, kind: str) -> None:
    """It may outlive the agent, which would take it for another one, and leave its socket behind."""
    desk = Desk(tmp_path)
    desk.answer = ["x" * 10_000_000]
    begun, ends, child = os.pipe(), os.pipe(), 0
    with contextlib.closing(unix_socket.connected(desk.path, 5)) as client:
        if kind == "work":
            child = forked(lambda: (os.write(begun[1], b"."), os.close(ends[1]), os.read(ends[0], 1)))
            os.read(begun[0], 1)
        else:
            client.sendall(b"checks\n")
            desk.turn(2)
            client.recv(1)
        desk.inquiries.close()
        assert not desk.path.exists()
    for end in (*begun, *ends):
        os.close(end)
    if child:
        os.waitpid(child, 0)


def test_what_takes_memory_is_loaded_where_it_is_needed_only() -> None:
    """OpenSSL by the first check over TLS, the server of metrics by whoever asks for it."""
    loaded = "_natlb.cli.main, _natlb.health.agent, _natlb.health.checks, _natlb.health.publisher, _natlb.status.scrape"
    script = f"import sys, {loaded}; print(*{{'ssl', 'http.server'}} & set(sys.modules))"
    core = Path(__file__).parents[3] / "plugins" / "module_utils"
    done = subprocess.run([sys.executable, "-c", script], cwd=core, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("booted", [True, False])
def test_a_silent_agent_is_looked_at_where_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, booted: bool
) -> None:
    """Nobody types systemctl on a host without systemd."""
    monkeypatch.setattr(service_manager, "_BOOTED", str(tmp_path if booted else tmp_path / "none"))
    with pytest.raises(HostError) as caught:
        asked(tmp_path / "agent.sock", CHECKS)
    assert ("systemctl" in str(caught.value)) == booted
    assert ("supervisor" in str(caught.value)) != booted


def test_a_backend_that_flaps_puts_off_what_boots_only_so_long() -> None:
    settling, now = Settling(), 100.0
    while settling.at is None or settling.at > now:
        settling.changed(now)
        now += SETTLE_S / 2
    assert now == pytest.approx(100.0 + UNSETTLED_S, abs=SETTLE_S)
    settling.done()
    settling.changed(now)
    assert settling.at == now + SETTLE_S


def test_one_that_is_to_end_waits_for_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that restarts it holds the lock, and waits for its end."""
    monkeypatch.setattr(store, "_ending", threading.Event())
    paths = store.Paths(tmp_path, tmp_path)
    agent = agent_of(Busy())
    former = signal.signal(signal.SIGALRM, lambda *_unused: agent.stop())
    try:
        with store.lock(paths):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(BusyError, match="this process is to end"), store.lock(paths):
                pass
    finally:
        signal.signal(signal.SIGALRM, former)


def test_what_is_in_no_file_is_told_once_and_as_long_as_it_is_so() -> None:
    said: list[str] = []
    running: Any = Busy()
    agent = agent_of(running)
    agent._say = lambda message, *_unused, **_more: said.append(message)
    for trouble, count in (("", 0), ("health.json: full", 1), ("health.json: full", 1), ("", 1), ("full", 2)):
        running.unwritten = lambda found=trouble: found
        agent._look(1.0)
        assert len(said) == count
        assert agent.troubles == ([f"the agent cannot keep what it has found: {trouble}"] if trouble else [])
    assert said == ["health.json: full; the rules follow nevertheless", "full; the rules follow nevertheless"]
