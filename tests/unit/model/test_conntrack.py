# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tracked UDP connections must choose anew."""

from __future__ import annotations

from typing import Any

import pytest
from _natlb.host import flows
from _natlb.model.entities import EMPTY, Config
from _natlb.model.services import parse_config
from _natlb.plan import stale_flows

LINE = (
    "udp      17 29 src=192.0.2.100 dst={target} sport=40000 dport={port} "
    "{seen}src={answerer} dst=10.0.0.1 sport={answered} dport=40000 {assured}mark=0 use=1"
)
LOCAL = {"192.0.2.2", "10.0.0.1", "127.0.0.1", "fe80::2"}


def config(*backends: dict[str, Any], listen: Any = "192.0.2.10:53") -> Config:
    """A port of None is one that is left out."""
    given = [{"address": f"10.0.0.{i}", "port": 9000, **backend} for i, backend in enumerate(backends, 3)]
    declared = [{key: value for key, value in backend.items() if value is not None} for backend in given]
    return parse_config([{"name": "dns", "listen": listen, "protocol": "udp", "backends": declared}])


def flow(answerer: str = "10.0.0.3", answered: int = 9000, target: str = "192.0.2.10", port: int = 53) -> flows.Flow:
    line = LINE.format(target=target, port=port, answerer=answerer, answered=answered, seen="", assured="[ASSURED] ")
    parsed = flows.parse("ip", line)
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
        (EMPTY, config({}, listen="*:53"), flow("127.0.0.1", 53, target="127.0.0.1"), False),
    ],
)
def test_stale(before: Config, after: Config, one: flows.Flow, gone: bool) -> None:
    known = stale_flows.Frontends(before, "udp", LOCAL), stale_flows.Frontends(after, "udp", LOCAL)
    assert stale_flows.stale([one, one], *known) == ([one, one] if gone else []), "each is deleted by itself"


FRONT, BACK = {"interface": "front"}, {"interface": "back"}


def services(*keys: dict[str, Any]) -> Config:
    """Services that share what they do not say otherwise."""
    shared = {"listen": "192.0.2.10:53", "protocol": "udp", "backends": [{"address": "10.0.0.3", "port": 9000}]}
    return parse_config([{"name": f"s{number}", **shared, **key} for number, key in enumerate(keys)])


OTHER = {"backends": [{"address": "10.0.0.4", "port": 9000}]}
RANGE = {"listen": "192.0.2.10:50-60"}


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        # Services that only the interface tells apart.
        (services(FRONT, {**BACK, **OTHER}), services(FRONT, {**BACK, **OTHER}), False),
        (services({**FRONT, **OTHER}, BACK), services({**FRONT, **OTHER}, BACK), False),
        (services(FRONT, {**BACK, **OTHER}), services({**FRONT, **OTHER}, {**BACK, **OTHER}), True),
        (services({**FRONT, **RANGE, **OTHER}, BACK), services({**FRONT, **RANGE, **OTHER}, BACK), False),
        (services(FRONT, {**BACK, **OTHER}), services({**BACK, **OTHER}), True),
        (services(FRONT, BACK), services(BACK), True),
        # Open to fewer interfaces, to another one, to more.
        (services({}), services(FRONT), True),
        (services(FRONT), services(BACK), True),
        (services(FRONT), services(FRONT, BACK), False),
        (services(FRONT), services({}), False),
        # Who may come. The client is 192.0.2.100.
        (services({}), services({"allow_from": ["198.51.100.0/24", "192.0.2.64/26"]}), False),
        (services({}), services({"allow_from": ["198.51.100.0/24", "192.0.2.0/26"]}), True),
        (services({"allow_from": "192.0.2.100"}), services({"allow_from": "192.0.2.99"}), True),
        (services({"allow_from": "192.0.2.99"}), services({"allow_from": "192.0.2.100"}), False),
        (
            services({}),
            services(
                {
                    "listen": ["192.0.2.10:53", "[2001:db8::10]:53"],
                    "allow_from": "::c000:264/128",
                    "backends": [{"address": "10.0.0.3", "port": 9000}, {"address": "2001:db8:2::3"}],
                }
            ),
            True,
        ),
        # Whom the backends see.
        (services({"snat": "none"}), services({}), True),
        (services({}), services({"snat": "192.0.2.98"}), True),
        (services({"snat": ["192.0.2.98", "192.0.2.99"]}), services({"snat": ["192.0.2.99", "192.0.2.98"]}), False),
        (services({"snat": "192.0.2.98"}), services({"snat": "192.0.2.99"}), True),
        (services({**FRONT, "snat": "none"}, BACK), services({**FRONT, "snat": "none"}, BACK), False),
        (services({**FRONT, "snat": "none"}, BACK), services(FRONT, {**BACK, "snat": "none"}), True),
        # All the same to a flow: a name, a limit, a method, another protocol.
        (services({}), services({"name": "other", "method": "random", "max_connections_per_client": 1}), False),
        (services({}), services({"protocol": ["udp", "tcp"]}), False),
        (services({"protocol": ["udp", "tcp"]}), services({"protocol": "tcp"}), True),
    ],
)
def test_what_is_not_declared_any_more_ends(before: Config, after: Config, gone: bool) -> None:
    known = stale_flows.Frontends(before, "udp", LOCAL), stale_flows.Frontends(after, "udp", LOCAL)
    assert bool(stale_flows.stale([flow()], *known)) is gone


def test_ranges_are_searched_and_not_walked() -> None:
    """Ten thousand ranges on one address, and as many flows: by a walk over all it would be a hundred million steps."""
    ranges = [{"name": f"r{i}", "listen": f"192.0.2.10:{5 * i + 1}-{5 * i + 3}"} for i in range(10000)]
    found = stale_flows.Frontends(services(*ranges), "udp", LOCAL)
    for i in range(10000):
        assert [service.name for service in found.find("ip", "192.0.2.10", 5 * i + 2)] == [f"r{i}"]
    assert found.find("ip", "192.0.2.10", 5) == found.find("ip", "192.0.2.10", 5 * 9999 + 4) == []


@pytest.mark.parametrize(
    ("line", "state"),
    [
        (LINE.format(target="t", port=1, answerer="a", answered=2, seen="[UNREPLIED] ", assured=""), ""),
        ("tcp 6 431999 ESTABLISHED src=a dst=b sport=1 dport=2 src=c dst=d sport=3 dport=4 [ASSURED]", "ESTABLISHED"),
    ],
)
def test_lines_of_conntrack(line: str, state: str) -> None:
    parsed = flows.parse("ip", line)
    assert parsed is not None
    assert parsed.state == state


@pytest.mark.parametrize(
    "line", ["", "icmp 1 29 src=a dst=b type=8 code=0 id=1 src=b dst=a type=0 code=0 id=1", "what"]
)
def test_lines_of_other_things(line: str) -> None:
    assert flows.parse("ip", line) is None
