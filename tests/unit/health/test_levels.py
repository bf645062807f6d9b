# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at connections for `least_connections`: what is dealt upon two of them, and when there is another."""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count

import pytest
from _natlb.errors import HostError
from _natlb.health.levels import EVERY_S, Levels
from _natlb.model.effective import Place
from _natlb.model.entities import Service
from _natlb.model.services import parse_config

PLACES = [Place("web", f"10.0.0.{number}", None) for number in (3, 4, 5, 6)]
_SERVICE = {"name": "web", "listen": "192.0.2.1:80", "method": "least_connections"}
(SERVICE,) = parse_config([{**_SERVICE, "backends": [{"address": place.address} for place in PLACES]}]).services

#: Makes a look, and says what is to be dealt.
Look = Callable[[], Mapping[Place, float]]


class Host:
    """The connections that a look finds."""

    def __init__(self) -> None:
        self._numbers = count()
        self.connections: dict[Place, list[bytes]] = {place: [] for place in PLACES}
        self.fails = False

    def open(self, *numbers: int) -> None:
        for place, number in zip(PLACES, numbers, strict=True):
            self.connections[place] += [str(next(self._numbers)).encode() for _unused in range(number)]

    def close(self) -> None:
        for found in self.connections.values():
            found.clear()

    def read(self, _services: Iterable[Service]) -> Iterator[tuple[Place, bytes]]:
        if self.fails:
            raise HostError("conntrack: no")
        for place, found in self.connections.items():
            for connection in found:
                yield place, connection


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def look(host: Host) -> Iterator[Look]:
    with selectors.DefaultSelector() as selector:
        levels = Levels(selector, host.read)
        now = count(0, EVERY_S)

        def once() -> Mapping[Place, float]:
            at = next(now)
            levels.set_services([SERVICE], {}, at)
            levels.begin(at)
            while selector.get_map():
                for key, mask in selector.select(10):
                    key.data(mask)
            return levels.take() or {}

        yield once


def test_long_connections_are_levelled(host: Host, look: Look) -> None:
    host.open(100, 100, 100, 0)
    assert look() == {}, "one look tells nothing of what comes"
    host.open(12, 12, 12, 12)
    dealt = look()
    assert dealt[PLACES[3]] == 2
    assert all(dealt[place] < 1 for place in PLACES[:3])


def test_what_does_not_last_is_left_alone(host: Host, look: Look) -> None:
    """A look catches a few of the many that begin and end between two."""
    for numbers in ((3, 0, 1, 0), (0, 2, 0, 0), (1, 1, 0, 4), (0, 0, 0, 0), (5, 0, 0, 0)):
        host.close()
        host.open(*numbers)
        assert set(look().values()) <= {1.0}


def test_a_look_that_fails_is_made_again(host: Host, look: Look) -> None:
    host.open(10, 10, 10, 0)
    look()
    host.fails = True
    assert look() == {}
    host.fails = False
    host.open(1, 1, 1, 1)
    assert look()[PLACES[3]] > 1
