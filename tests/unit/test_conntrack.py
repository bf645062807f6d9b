# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tracked UDP connections must choose anew."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb import conntrack, kernel
from _natlb.model import EMPTY, Config, parse_config

LINE = (
    "udp      17 29 src=192.0.2.100 dst={target} sport=40000 dport={port} "
    "{seen}src={answerer} dst=10.0.0.1 sport={answered} dport=40000 {assured}mark=0 use=1"
)
LOCAL = {"192.0.2.2", "10.0.0.1"}


def config(*backends: dict[str, Any], listen: Any = "192.0.2.10:53") -> Config:
    declared = [{"address": f"10.0.0.{i}", "port": 9000, **backend} for i, backend in enumerate(backends, 3)]
    return parse_config([{"name": "dns", "listen": listen, "protocol": "udp", "backends": declared}])


def flow(answerer: str = "10.0.0.3", answered: int = 9000, target: str = "192.0.2.10", port: int = 53) -> kernel.Flow:
    line = LINE.format(target=target, port=port, answerer=answerer, answered=answered, seen="", assured="[ASSURED] ")
    parsed = kernel._flow("ip", line)
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    ("before", "after", "one", "gone"),
    [
        (config({}), config({}), flow(), False),
        (config({}, {}), config({"address": "10.0.0.4"}), flow(), True),
        (config({}), config({"state": "drained"}), flow(), False),
        (config({}), config({"state": "disabled"}), flow(), True),
        (config({}), config({"weight": 0}, {}), flow(), False),
        (config({}), config({"port": 9001}), flow(), True),
        # A flow that began before there was a service is answered by the balancer itself, or by nobody.
        (EMPTY, config({}), flow("192.0.2.10", 53), True),
        # The service is gone: its flows go too, others to the same address and port do not.
        (config({}), EMPTY, flow(), True),
        (config({}), EMPTY, flow("10.0.0.99"), False),
        # Not ours.
        (config({}), config({}), flow("10.0.0.9", target="192.0.2.11"), False),
        (config({}), config({}), flow("10.0.0.9", port=54), False),
        # Ports that are kept, and every local address.
        (EMPTY, config({"port": None}, listen="192.0.2.10:50-60"), flow(answered=53), False),
        (EMPTY, config({"port": None}, listen="192.0.2.10:50-60"), flow(answered=54), True),
        (EMPTY, config({}, listen="*:53"), flow(target="192.0.2.2"), False),
        (EMPTY, config({}, listen="*:53"), flow("192.0.2.2", 53, target="192.0.2.2"), True),
        (EMPTY, config({}, listen="*:53"), flow("192.0.2.77", 53, target="192.0.2.77"), False),
    ],
)
def test_stale(before: Config, after: Config, one: kernel.Flow, gone: bool) -> None:
    known = conntrack.Frontends(before, "udp", LOCAL), conntrack.Frontends(after, "udp", LOCAL)
    assert conntrack.stale([one, one], *known) == ([one] if gone else [])


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (LINE.format(target="t", port=1, answerer="a", answered=2, seen="[UNREPLIED] ", assured=""), ""),
        ("tcp 6 431999 ESTABLISHED src=a dst=b sport=1 dport=2 src=c dst=d sport=3 dport=4 [ASSURED]", "ESTABLISHED"),
    ],
)
def test_lines_of_conntrack(line: str, state: str) -> None:
    parsed = kernel._flow("ip", line)
    assert parsed is not None
    assert parsed.state == state


@pytest.mark.parametrize(
    "line", ["", "icmp 1 29 src=a dst=b type=8 code=0 id=1 src=b dst=a type=0 code=0 id=1", "what"]
)
def test_lines_of_other_things(line: str) -> None:
    assert kernel._flow("ip", line) is None
