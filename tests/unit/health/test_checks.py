# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What checks make of answers in the course of time, with real sockets, each bounded in time."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable

import pytest
from _natlb.model.effective import Finding, Place
from _natlb.model.services import parse_config
from checks_lab import LOCAL, OK, Loop, answering, full, hanging, service, unused_port


def test_one_check_is_shared_by_all_who_ask_the_same(loop: Callable[..., Loop]) -> None:
    port = unused_port()
    services = [
        service(port, "a", type="tcp"),
        service(port, "b", type="tcp", slow_start=30, on_down="reset", fail_open=True),
        service(port, "c", type="tcp", fall=1),
    ]
    found = loop(*services)
    assert len(list(found.checker.overview())) == 2
    found.until(lambda: len(found.events) == 2)
    by_places = {tuple(place.service for place in event.places): event.finding.reason for event in found.events}
    reason = f"connect to {LOCAL}:{port}: Connection refused"
    assert by_places == {("a", "b"): f"{reason}, 2 of 2", ("c",): f"{reason}, 1 of 1"}


def test_who_joins_a_check_is_told_what_is_known(loop: Callable[..., Loop]) -> None:
    port = unused_port()
    first, second = service(port, "a", type="tcp"), service(port, "b", type="tcp")
    found = loop(first)
    event = found.event()
    (place,) = event.places
    found.checker.set_checks([first, second], {place: event.finding}, time.monotonic())
    (told,) = found.checker.take_events()
    assert ([place.service for place in told.places], told.finding) == (["b"], event.finding)
    # Who knows it is not told again, and who left is not any more.
    both = dict.fromkeys((*event.places, *told.places), event.finding)
    found.checker.set_checks([first, second], both, time.monotonic())
    assert found.checker.take_events() == []
    found.checker.set_checks([second], both, time.monotonic())
    assert [status.places for status in found.checker.overview()] == [told.places]


def test_what_was_kept_holds_until_checks_say_otherwise(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    kept = Finding("down", "2026-01-01T00:00:00+00:00", "as it was")
    found = loop(service(listen(), type="tcp", rise=3), findings={Place("web", "10.0.0.4", None): kept})
    event = found.event()
    assert (event.finding.state, event.finding.reason) == ("up", "it accepts connections, 3 of 3")


def test_a_backend_that_comes_back_gets_its_weight_by_and_by(
    loop: Callable[..., Loop], listen: Callable[..., int]
) -> None:
    kept = {Place(name, "10.0.0.4", None): Finding("down") for name in "ab"}
    port = listen()
    found = loop(service(port, "a", type="tcp", slow_start="500ms"), service(port, "b", type="tcp"), findings=kept)
    found.until(lambda: any(event.places[0].service == "a" and event.weight is None for event in found.events))
    shares = {name: [event.weight for event in found.events if event.places[0].service == name] for name in "ab"}
    assert shares["b"] == [None]
    # A machine that is busy may pass over steps.
    first, *later = [share for share in shares["a"][:-1] if share is not None]
    assert first == 0.1
    assert later == sorted(later)
    assert len(later) > 2
    assert {event.finding.state for event in found.events} == {"up"}


def test_a_slow_start_goes_on_after_a_restart(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    """Who asks starts anew; the backend does not."""
    kept = {Place(name, "10.0.0.4", None): Finding("up", share=0.8) for name in "ab"}
    port = listen()
    services = service(port, "a", type="tcp", slow_start=1), service(port, "b", type="tcp")
    found = loop(*services, findings=kept)
    shares: list[tuple[str | None, float | None]] = []

    def are_whole() -> bool:
        shares[:] = [(event.places[0].service, event.weight) for event in found.events]
        return {("a", None), ("b", None)} <= set(shares)

    found.until(are_whole)
    # That of b is left over from a slow start that it has no more. A step of a is left out where it would be late.
    assert shares in ([("b", None), ("a", 0.9), ("a", None)], [("b", None), ("a", None)])


def test_the_word_of_an_agent_outlives_a_restart(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    kept = {Place("web", "10.0.0.4", None): Finding("up", share=0.5)}
    lines = [b"50%\n", b"50%\n", b"up\n"]
    found = loop(
        service(listen(lambda peer: peer.sendall(lines.pop(0) if lines else b"up\n")), type="agent"), findings=kept
    )
    assert found.event().weight is None
    assert lines == []


def test_who_joins_does_not_end_the_slow_start_of_others(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    port = listen()
    first, second = service(port, "a", type="tcp", slow_start=1), service(port, "b", type="tcp")
    place = Place("a", "10.0.0.4", None)
    found = loop(first, findings={place: Finding("down")})
    event = found.event()
    assert event.weight == 0.1
    found.checker.set_checks([first, second], {place: Finding("up", share=0.1)}, time.monotonic())
    found.until(lambda: any(event.places == (place,) and event.weight is None for event in found.events))


def test_a_backend_that_clients_wait_for_is_asked_at_once(loop: Callable[..., Loop]) -> None:
    """An hour between checks, three failures to be down; and now one check within the time of one."""
    port = unused_port()
    slow = parse_config(
        [
            {
                "name": "web",
                "listen": "192.0.2.10:80",
                "health": {"type": "tcp", "interval": "1h", "fall": 3, "port": port, "address": LOCAL},
                "backends": [{"address": "10.0.0.4", "port": 8080}, {"address": "10.0.0.5", "port": 8080}],
            }
        ]
    ).services[0]
    up = {Place("web", f"10.0.0.{n}", 8080): Finding("up") for n in (4, 5)}
    found = loop(slow, findings=up)
    found.checker.check_now("10.0.0.9", 8080)
    found.checker.check_now("10.0.0.4", 8081)
    assert found.checker.next_due() is not None
    found.checker.check_now("10.0.0.4", 8080)
    # The loop waits for seconds, and the next check of its own is an hour away.
    event = found.event()
    assert event.finding.reason == f"connect to {LOCAL}:{port}: Connection refused, clients get no answer"


@pytest.mark.parametrize("jump", ["2031-01-01T00:00:00+00:00", "1999-12-31T23:59:59+00:00"], ids=["ahead", "back"])
def test_the_time_of_day_is_for_people_alone(
    loop: Callable[..., Loop], listen: Callable[..., int], monkeypatch: pytest.MonkeyPatch, jump: str
) -> None:
    """Somebody sets the clock while checks run: their number stays what it is, and only `since` shows the new time."""
    monkeypatch.setattr(time, "time", lambda: pytest.fail("the time of day can be set"))
    asked: list[float] = []

    def serve(peer: socket.socket) -> None:
        asked.append(time.monotonic())
        answering(OK if len(asked) <= 3 or len(asked) > 8 else b"")(peer)

    found = loop(service(listen(serve), type="http", interval=0.3, fast_interval=0.2, fall=3, rise=2))
    first = found.event().finding
    found.checker._date = lambda: jump
    down = found.event().finding
    assert (first.state, down.state, down.since) == ("up", "down", jump)
    up = found.event().finding
    assert (up.state, up.since) == ("up", jump)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert min(pauses) > 0.04, "no storm"


def test_a_suspect_has_half_a_second_to_accept(loop: Callable[..., Loop]) -> None:
    with contextlib.ExitStack() as stack:
        port = full(stack)
        found = loop(service(port, type="http", interval=60, timeout=30))
        found.checker.check_now("10.0.0.4", 80)
        reason = found.event().finding.reason
        assert reason == f"connect to {LOCAL}:{port}: no answer within 0.5 s, clients get no answer"


def test_a_suspect_that_answers_others_is_not_out_at_one_failure(loop: Callable[..., Loop]) -> None:
    """On a network that loses packets. It counts as a failure like others."""
    found = loop(service(unused_port(), type="tcp", interval=60, fall=2, fast_interval=0.3))
    found.checker.check_now("10.0.0.4", 80, lambda: lambda: True)
    assert found.event().finding.reason.endswith("Connection refused, 2 of 2")


def test_a_suspect_that_nobody_can_stand_in_for_is_not_out_at_one_failure(loop: Callable[..., Loop]) -> None:
    found = loop(service(unused_port(), type="tcp", interval=60, fall=2, fast_interval=0.3))
    found.checker.check_now("10.0.0.4", 80, is_needed=True)
    assert found.event().finding.reason.endswith("Connection refused, 2 of 2")


def test_a_suspect_is_asked_several_times_at_once(loop: Callable[..., Loop]) -> None:
    """And no more often while that goes on, however many connections are overdue."""
    with socket.create_server((LOCAL, 0)) as server, contextlib.ExitStack() as stack:
        server.setblocking(False)
        peers: list[socket.socket] = []

        def accepted() -> int:
            with contextlib.suppress(BlockingIOError):
                while True:
                    peers.append(stack.enter_context(server.accept()[0]))
            return len(peers)

        found = loop(service(server.getsockname()[1], type="http", interval=60, timeout=30, fall=3))
        found.checker.check_now("10.0.0.4", 80)
        found.until(lambda: accepted() >= 3)
        for _time in range(5):
            found.checker.check_now("10.0.0.4", 80)
        for peer in peers:
            peer.sendall(OK)
        assert found.event().finding.state == "up"
        assert accepted() == 3


def test_a_suspect_that_accepts_has_all_of_its_time(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        time.sleep(0.8)
        peer.sendall(OK)

    found = loop(service(listen(serve), type="http", interval=60, timeout=30))
    found.checker.check_now("10.0.0.4", 80)
    assert found.event().finding.state == "up"


def test_an_answer_that_waits_for_a_busy_process_counts(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    """The loop may have been elsewhere for longer than a check may take."""
    asked, answer = threading.Event(), threading.Event()

    def serve(peer: socket.socket) -> None:
        peer.recv(4096)
        asked.set()
        assert answer.wait(5)
        peer.sendall(OK)

    found = loop(service(listen(serve), type="http", fall=1, interval=1, timeout=0.5))
    found.until(asked.is_set)
    answer.set()
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        pass
    assert found.event().finding.state == "up"


def test_what_the_balancer_lacks_is_nobodys_fault(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    """A source address that this host does not have (any more)."""
    found = loop(service(listen(), type="tcp", source="192.0.2.77"))
    found.until(lambda: all(status.last for status in found.checker.overview()))
    (status,) = found.checker.overview()
    assert "Cannot assign requested address" in status.last
    assert (status.finding, status.against) == (None, 0)
    assert found.events == []


def test_checks_come_from_the_source_that_is_named(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    sources: list[str] = []

    def serve(peer: socket.socket) -> None:
        sources.append(peer.getpeername()[0])
        peer.sendall(b"up\n")

    assert loop(service(listen(serve), type="agent", source="127.0.0.9")).event().finding.state == "up"
    assert sources[0] == "127.0.0.9"


def test_a_dead_backend_is_out_at_the_check_that_decides(loop: Callable[..., Loop], listen: Callable[..., int]) -> None:
    """So within fall * interval + timeout: when each check is due, and late, is a matter of other tests."""
    alive = threading.Event()
    alive.set()
    in_vain: list[socket.socket] = []

    def serve(peer: socket.socket) -> None:
        if alive.is_set():
            answering(OK)(peer)
        else:
            in_vain.append(peer)
            hanging()(peer)

    found = loop(service(listen(serve), type="http", interval=0.5, timeout=0.2, fall=2))
    assert found.event().finding.state == "up"
    alive.clear()
    assert found.event().finding.state == "down"
    assert len(in_vain) == 2
