# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A thousand backends, checked by tcp with real sockets: all are found up, and all are found down once nobody listens.

`test_state.py` shows that they do not fall due at once, and `tests/bench/agent.py` measures what they cost.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable

from _natlb.model.entities import Service
from _natlb.model.services import parse_config
from checks_lab import Loop

BACKENDS = 1000


def services(port: int) -> tuple[Service, ...]:
    """Each has an address of the loopback network, so each is a question of its own."""
    health = {"type": "tcp", "port": port, "interval": 1, "fast_interval": 0.3, "fall": 2}
    return parse_config(
        [
            {
                "name": f"s{number}",
                "listen": f"192.0.2.10:{1000 + number}",
                "health": {**health, "address": f"127.1.{number // 250}.{number % 250 + 1}"},
                "backends": [{"name": f"b{number}", "address": f"10.0.{number // 250}.{number % 250 + 1}"}],
            }
            for number in range(BACKENDS)
        ]
    ).services


def test_a_thousand_backends_go_down_and_each_is_told_once(loop: Callable[..., Loop]) -> None:
    with socket.create_server(("0.0.0.0", 0), backlog=4096) as server:
        port = server.getsockname()[1]
        found = loop(*services(port))
        found.until(lambda: len(found.events) >= BACKENDS)
        assert Counter(event.finding.state for event in found.events) == {"up": BACKENDS}
    found.until(lambda: len(found.events) >= 2 * BACKENDS)
    down = found.events[BACKENDS:]
    assert Counter(event.finding.state for event in down) == {"down": BACKENDS}
    assert len({event.name for event in down}) == BACKENDS
    assert {event.finding.reason.partition(": ")[2] for event in down} == {"Connection refused, 2 of 2"}
