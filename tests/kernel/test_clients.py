# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many clients affinity and limits know, as `balancer_info` tells it."""

from __future__ import annotations

from typing import Any

import pytest
from kernel_lab import drive
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import NAMES, VIP, VIP6, WEB6

#: As many clients as a set has room for in these tests.
ROOM = 20
#: xt_recent's ip_list_tot.
RECENT = 100
OPTIONS: dict[str, int] = {"affinity": 600, "max_connections_per_client": 5, "new_connections_per_second": 1}
SOURCES = [f"198.18.3.{i}" for i in range(1, 201)]


def apply(balancer: Balancer, **keys: Any) -> None:
    options = {"engine": balancer.engine, **({"iptables_variant": balancer.variant} if balancer.variant else {})}
    balancer.host.call(drive.balance_in_small_sets, balancer._root, ROOM, [service(**keys)], **options)


def told(balancer: Balancer) -> tuple[Mapping, list[str]]:
    """What is known, and the warnings that say so."""
    answer = balancer.host.call(drive.info_in_small_sets, balancer._root, ROOM, variant=balancer.variant)
    return answer["services"][0]["known_clients"], [text for text in answer["warnings"] if " knows " in text]


def room(balancer: Balancer, option: str) -> int | None:
    if balancer.nftables:
        return ROOM
    return {"affinity": RECENT, "new_connections_per_second": ROOM}.get(option)


@pytest.mark.parametrize("option", OPTIONS)
def test_clients_are_counted(balancer: Balancer, option: str) -> None:
    most = room(balancer, option)
    apply(balancer, backends=webs("web1"), **{option: OPTIONS[option]})
    assert told(balancer)[0] == {**dict.fromkeys(OPTIONS), option: most and {"count": 0, "max": most}}
    # The count of connections keeps a client as long as it has one.
    for source in SOURCES[:3]:
        assert balancer.hold(source=source)[0][1].name == "web1"
    assert told(balancer) == ({**dict.fromkeys(OPTIONS), option: most and {"count": 3, "max": most}}, [])


@pytest.mark.parametrize("option", OPTIONS)
def test_a_nearly_full_set_gives_a_warning(balancer: Balancer, option: str) -> None:
    most = room(balancer, option)
    apply(balancer, backends=webs("web1"), **{option: OPTIONS[option]})
    for source in SOURCES[: ROOM * 4 // 5]:
        assert balancer.hold(source=source)[0][1].name == "web1"
    known, warnings = told(balancer)
    assert known[option] == (most and {"count": 16, "max": most})
    if most == ROOM:
        (warning,) = warnings
        assert f"service web: {option} knows 16 clients, 80 % of the possible 20; " in warning
    else:
        assert not warnings, "a run says already that the oldest is forgotten, or there is no bound"


def test_the_fullest_backend_counts_in_both_families(balancer: Balancer) -> None:
    backends = [*webs(), {"address": WEB6["web1"], "port": 80}]
    apply(balancer, listen=[f"{VIP}:80", f"[{VIP6}]:80"], affinity=60, backends=backends)
    assert set(balancer.tally(count=8, sources=SOURCES[:8])) == set(NAMES)
    assert told(balancer)[0]["affinity"]["count"] == 2
    balancer.tally(f"[{VIP6}]:80", count=5, sources=[f"2001:db8:18::{i}" for i in range(1, 6)])
    assert told(balancer)[0]["affinity"]["count"] == 5
