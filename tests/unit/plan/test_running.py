# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agent's process does of a change that could not be made at first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _natlb.plan.running
import pytest
from _natlb.errors import HostError
from _natlb.host import proc, store, tracked
from _natlb.host.store import Paths
from _natlb.host.tracked import Tracked
from _natlb.model import local_state
from _natlb.model.effective import Finding, Findings, Place
from _natlb.model.services import parse_config
from _natlb.plan import overlay, rollback
from _natlb.plan.backend_connections import BackendConnections
from _natlb.plan.request import Request
from _natlb.plan.running import Running
from _natlb.plan.unwritten import Unwritten

PLACE, OTHER = Place("web", "10.0.0.3", 80), Place("web", "10.0.0.4", 80)
#: A service as a whole, below its quorum.
BELOW = Place("web", "0.0.0.0", None)


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One whose first attempt fails, since another run has the lock; `done` is what it did."""
    found: Any = Running(Paths(etc=tmp_path / "etc", run=tmp_path / "run"))
    found.done, busy = [], [True]

    @contextlib.contextmanager
    def lock(_paths: Paths) -> Iterator[None]:
        if busy.pop() if busy else False:
            raise HostError("another run")
        yield None

    monkeypatch.setattr(rollback, "lock_with_none_overdue", lock)
    monkeypatch.setattr(found, "is_current", lambda: True)
    monkeypatch.setattr(found, "_followed", lambda names: found.done.append(("follow", set(names))) is None)
    return found


def test_a_change_that_failed_is_made_whole_by_the_next_attempt(running: Any) -> None:
    running._connections.end_of_dead = lambda places, _declared: running.done.append(("end", list(places)))
    running._findings = {PLACE: Finding("up")}
    down = {PLACE: Finding("down"), OTHER: Finding("down")}
    with pytest.raises(HostError):
        running.find(down)
    assert running.findings == {PLACE: Finding("up")}
    running.find(down)
    assert running.done == [("follow", {"web"}), ("end", [PLACE, OTHER])]
    assert running.findings == down


def test_connections_end_of_backends_that_are_dead_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one at the same address lives on; where both die at once, those of both end."""
    backends = [{"name": f"of {port}", "address": "10.0.0.3", "port": port} for port in (81, 82)]
    health = {"type": "tcp", "on_down": "reset"}
    declared = {"name": "web", "listen": "192.0.2.10:8000-8010", "backends": backends, "health": health}
    (service,) = parse_config([declared]).services
    seen = [
        Tracked("ip", "tcp", "192.0.2.100", ("192.0.2.10", 8000), ("10.0.0.3", port), True, True, False, True, b"", b"")
        for port in (81, 82)
    ]
    monkeypatch.setattr(
        tracked, "of_backend", lambda _f, _p, _a, port: [item for item in seen if item.backend[1] == port]
    )
    monkeypatch.setattr(proc, "local_addresses", set)
    ended: list[int] = []
    monkeypatch.setattr(tracked, "delete", lambda items: ended.extend(item.backend[1] for item in items))
    for ports in ((81,), (82,), (81, 82)):
        BackendConnections([service]).end_of_dead((Place("web", "10.0.0.3", port) for port in ports), {"web": service})
        assert sorted(ended) == [*ports]
        ended.clear()


@pytest.mark.parametrize("waits", [False, True])
def test_what_another_declaration_leaves_is_not_judged_by_the_known_one(tmp_path: Path, waits: bool) -> None:
    """A run that takes a service away below its quorum ends what was found of it: it is not above it again."""
    paths = Paths(etc=tmp_path / "etc", run=tmp_path / "run")
    here: Any = Running(paths)
    declared = {"name": "web", "listen": "192.0.2.10:80", "min_healthy": 1, "health": {"type": "tcp"}}
    here._plan = SimpleNamespace(request=SimpleNamespace(config=parse_config([{**declared, "backends": ["10.0.0.3"]}])))

    def keep(state: str, found: Findings) -> None:
        store.write_text(paths.etc / store.STATE, state)
        store.write_text(paths.run / store.HEALTH, local_state.dump_findings(found, overlay.identity()))

    below = {Place("web", "0.0.0.0", None): Finding("down", "", "0 of 1")}
    keep("{}", below)
    here._request.read()
    assert here.kept_below() == below
    keep("{}", {})
    assert here.kept_below() == {}
    if waits:
        directory = paths.run / rollback.DIRECTORY.format(token="1")
        store.write_text(directory / "pending", "1e12")
    else:
        keep('{"services": []}', {})
    assert here.kept_below() is None


def test_the_rules_follow_what_cannot_be_written_down(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a full /run. It is written once there is room, and until then whatever this process reads has it."""
    path, write = running._paths.run / store.HEALTH, store.write_text
    store.write_text(path, "old")
    with pytest.raises(HostError):
        running.find({})

    def full(path: Path, *_more: Any) -> None:
        raise HostError(f"{path}: No space left on device")

    monkeypatch.setattr(store, "write_text", full)
    running.find({PLACE: Finding("down")})
    assert running.done == [("follow", {"web"})]
    assert running.unwritten() == f"{path}: No space left on device"
    read: list[Paths] = []

    def reading(paths: Paths, *_more: Any) -> None:
        read.append(paths)
        raise HostError("so far")

    monkeypatch.setattr(_natlb.plan.running, "carry_out", reading)
    with pytest.raises(HostError, match="so far"):
        running._restore(None)
    text = store.kept_text(read[0], path)
    assert text == running._unwritten.text(path) != "old"
    monkeypatch.setattr(store, "write_text", write)
    assert running.unwritten() == ""
    assert store.kept_text(running._unwritten.seen(running._paths), path) == path.read_text() == text


@pytest.mark.parametrize("name", [store.HEALTH, store.MULTIPLES])
def test_a_reading_has_what_cannot_be_written_down(tmp_path: Path, name: str) -> None:
    unwritten, paths = Unwritten(), Paths(tmp_path / "etc", tmp_path / "run")
    (tmp_path / "run").write_text("in the way")
    place = Place("web", "10.0.0.3", 80)
    text = {
        store.HEALTH: local_state.dump_findings({place: Finding("down")}, overlay.identity()),
        store.MULTIPLES: local_state.dump_multiples({place: 0.5}, overlay.identity()),
    }[name]
    unwritten.write(paths.run / name, text)
    assert "cannot be made" in unwritten.trouble
    backends = ["10.0.0.3:80", "10.0.0.4:80"]
    service = {"name": "web", "listen": "192.0.2.10:80", "method": "least_connections", "health": {"type": "tcp"}}
    config = parse_config([{**service, "backends": backends}])
    laid = overlay.read(Request(config, "nftables", None, True, True, unwritten.seen(paths)))
    found = {store.HEALTH: laid.findings, store.MULTIPLES: laid.multiples}[name]
    assert place in found


def test_what_cannot_be_written_down_waits_for_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that asks makes all checks."""
    running: Any = Running(Paths(tmp_path / "etc", tmp_path / "run"))
    running._unwritten.trouble = "health.json: No space left on device"

    def wait(_seconds: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(store.time, "sleep", wait)
    with store.lock(running._paths):
        assert running.unwritten() == "health.json: No space left on device"
    assert running.unwritten() == ""


#: What the file has, what is found and cannot be written, what a run leaves there meanwhile, and what becomes of it.
MEANWHILE: list[tuple[Findings | None, Findings, Findings | None, Findings]] = [
    ({PLACE: Finding("up")}, {PLACE: Finding("down")}, {PLACE: Finding("up")}, {PLACE: Finding("down")}),
    # The run has ended what was found of a service that is declared no more.
    (
        {PLACE: Finding("up"), OTHER: Finding("down")},
        {PLACE: Finding("down"), OTHER: Finding("down")},
        {PLACE: Finding("up")},
        {PLACE: Finding("down")},
    ),
    # Or all of it, so that there is no file any more.
    ({OTHER: Finding("down")}, {PLACE: Finding("down"), OTHER: Finding("down")}, None, {PLACE: Finding("down")}),
    # It has found a service below its quorum, or not any more.
    ({}, {PLACE: Finding("down")}, {BELOW: Finding("down")}, {PLACE: Finding("down"), BELOW: Finding("down")}),
    (
        {BELOW: Finding("down")},
        {PLACE: Finding("up")},
        {BELOW: Finding("down", "now")},
        {BELOW: Finding("down", "now"), PLACE: Finding("up")},
    ),
    (
        {BELOW: Finding("down")},
        {PLACE: Finding("up")},
        {BELOW: Finding("down"), OTHER: Finding("up")},
        {OTHER: Finding("up"), PLACE: Finding("up")},
    ),
    (None, {PLACE: Finding("down")}, {OTHER: Finding("up")}, {OTHER: Finding("up"), PLACE: Finding("down")}),
]


@pytest.mark.parametrize(("before", "found", "meanwhile", "then"), MEANWHILE)
def test_what_others_write_meanwhile_is_not_overwritten(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: Findings | None,
    found: Findings,
    meanwhile: Findings | None,
    then: Findings,
) -> None:
    unwritten, paths = Unwritten(), Paths(tmp_path / "etc", tmp_path / "run")
    path, host = paths.run / store.HEALTH, overlay.identity()

    def write(content: Findings | None) -> None:
        if content is None:
            store.remove(path)
        else:
            store.write_text(path, local_state.dump_findings(content, host))

    def full(path: Path, *_more: Any) -> None:
        raise HostError(f"{path}: No space left on device")

    def read(text: str | None) -> Findings:
        return local_state.parse_findings(text, host).entries

    write(before)
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_text", full)
        unwritten.write(path, local_state.dump_findings(found, host))
        assert read(unwritten.text(path)) == found
    write(meanwhile)
    assert read(unwritten.text(path)) == read(unwritten.seen(paths).staged[path]) == then
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_text", full)
        # The process that found it knows nothing of the file.
        unwritten.write(path, local_state.dump_findings(found, host))
    unwritten.retry()
    assert (read(path.read_text()), unwritten.trouble) == (then, "")
    unwritten.write(path, local_state.dump_findings(found, host))
    assert read(path.read_text()) == found
