# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How metrics are published: where nobody can be served yet, and where a file was written before."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _natlb.health.forked import forked
from _natlb.health.publisher import RETRY_S, Publisher
from _natlb.model.metrics import Metrics


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def publisher(said: list[str]) -> Iterator[Publisher]:
    with selectors.DefaultSelector() as selector:
        found = Publisher(selector, lambda _idle: "natlb_up 1\n", lambda message, _priority: said.append(message))
        yield found
        found.close()


def until(publisher: Publisher, is_so: Callable[[], bool], now: float) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        publisher.advance(now)
        assert time.monotonic() < deadline


def test_it_tries_again_to_listen_and_says_so_once(publisher: Publisher, said: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = other.getsockname()
        publisher.set_up(Metrics(listen=place), 100.0)
        publisher.advance(100.0 + RETRY_S)
        (trouble,) = publisher.troubles
        assert trouble == f"metrics.listen: nobody can be served at 127.0.0.1:{place[1]}: Address already in use"
        assert said == [trouble]
        assert publisher.due == 100.0 + 2 * RETRY_S
    publisher.advance(publisher.due)
    assert publisher.troubles == []
    assert publisher.due == float("inf")
    socket.create_connection(place).close()


def test_a_folder_that_is_missing_is_a_trouble_until_it_is_there(publisher: Publisher, tmp_path: Path) -> None:
    folder = tmp_path / "textfile"
    publisher.set_up(Metrics(directory=str(folder)), 100.0)
    until(publisher, lambda: bool(publisher.troubles), 100.0)
    assert publisher.troubles == [f"metrics.directory: {folder} is not there"]
    folder.mkdir()
    assert publisher.due == 100.0 + RETRY_S
    until(publisher, (folder / "natlb.prom").exists, publisher.due)
    until(publisher, lambda: not publisher.troubles, 100.0 + RETRY_S)


@pytest.mark.parametrize("other", [None, "elsewhere"])
def test_a_file_is_not_left_behind(publisher: Publisher, tmp_path: Path, other: str | None) -> None:
    publisher.set_up(Metrics(directory=str(tmp_path)), 100.0)
    file = tmp_path / "natlb.prom"
    until(publisher, file.exists, 100.0)
    directory = tmp_path / other if other else None
    if directory:
        directory.mkdir()
    publisher.set_up(Metrics(directory=str(directory) if directory else None), 101.0)
    until(publisher, lambda: not file.exists(), 101.0)


def test_a_child_does_not_keep_others_from_listening(publisher: Publisher) -> None:
    """Such as the agent that comes next, where one is restarted meanwhile."""
    # Where nobody else asks for a port.
    with socket.create_server(("127.0.77.1", 0)) as other:
        place = other.getsockname()
    publisher.set_up(Metrics(listen=place), 100.0)
    assert publisher.troubles == []
    begun, ends = os.pipe(), os.pipe()
    child = forked(lambda: (os.write(begun[1], b"."), os.close(ends[1]), os.read(ends[0], 1)))
    os.read(begun[0], 1)
    publisher.close()
    socket.create_server(place).close()
    for end in (*begun, *ends):
        os.close(end)
    os.waitpid(child, 0)
