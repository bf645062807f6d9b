# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What packets have taught the rules outlives a change to something else, and not a change of what it means."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernel_lab import drive, traffic
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import NAMES, OTHER_VIP, VIP, VIP6, WEB6

CLIENTS = [f"198.18.0.{i}" for i in range(1, 9)]
GUEST = "198.18.7.7"
REFUSED = "ConnectionRefusedError"

STICKY = service("sticky", listen=f"{VIP}:82", affinity=600, backends=webs(port=80))
OTHER = service("other", listen=f"{OTHER_VIP}:80", affinity=60)
LIMITED = service("limited", listen=f"{VIP}:83", max_connections_per_client=2, backends=webs(port=80))
SIX = service("six", listen=f"[{VIP6}]:80", backends=[{"address": address} for address in WEB6.values()])
PLAIN = service("plain", listen=f"{OTHER_VIP}:81", method="random")

#: Each is a change of something else.
CHANGES: dict[str, tuple[list[Mapping], list[Mapping]]] = {
    "affinity time": ([OTHER], [{**OTHER, "affinity": 90}]),
    "affinity on": ([OTHER], [{**OTHER, "affinity": 0}]),
    "first of a family": ([], [SIX]),
    "last of a family": ([SIX], []),
    "service goes": ([OTHER, PLAIN], [OTHER]),
    "service comes": ([], [OTHER]),
    "a limit": ([{**OTHER, "max_connections_per_client": 5}], [{**OTHER, "max_connections_per_client": 3}]),
    "a list": ([{**OTHER, "allow_from": "198.18.0.0/16"}], [{**OTHER, "allow_from": "198.0.0.0/8"}]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_service_changes(balancer: Balancer, change: str) -> None:
    before, after = CHANGES[change]
    balancer.apply([STICKY, LIMITED, *before])
    first = [answer.name for answer in balancer.ask(f"{VIP}:82", 8, sources=CLIENTS)]
    assert set(first) == set(NAMES)
    assert len(balancer.hold(f"{VIP}:83", 2, source=GUEST)) == 2
    counted = new_connections(balancer, "sticky")
    assert sum(counted.values()) == 8
    outcome = balancer.apply([STICKY, LIMITED, *after])
    assert outcome.transaction == "delta"
    assert new_connections(balancer, "sticky") == counted
    assert asked_backwards(balancer) == first
    if balancer.variant != "legacy":
        # The old iptables loads all rules of a table anew, and xt_connlimit keeps its count in the rule.
        assert balancer.tally(f"{VIP}:83", sources=[GUEST]) == {REFUSED: 1}, "its two are known still"
    assert not balancer.apply([STICKY, LIMITED, *after]).changed


def asked_backwards(balancer: Balancer) -> list[str]:
    """Who answers each of the clients. In the order in which they came first, turns alone would give them the same."""
    return [answer.name for answer in balancer.ask(f"{VIP}:82", 8, sources=CLIENTS[::-1])][::-1]


def new_connections(balancer: Balancer, name: str) -> dict[str, int]:
    (found,) = balancer.info(name)["services"]
    return {backend["name"]: backend["new_connections"] for backend in found["backends"]}


def test_a_changed_time_does_not_move_the_services_own_clients(balancer: Balancer) -> None:
    balancer.apply([STICKY])
    first = [answer.name for answer in balancer.ask(f"{VIP}:82", 8, sources=CLIENTS)]
    balancer.apply([{**STICKY, "affinity": 900}])
    assert asked_backwards(balancer) == first


@pytest.mark.engines("nftables")
def test_a_replacement_takes_along_what_affinity_has_learned(balancer: Balancer) -> None:
    """A delta that the kernel refuses: somebody's rule names a chain of ours that is to go."""
    doomed = service("doomed", listen=f"{VIP}:85", affinity=60)
    balancer.apply([STICKY, doomed])
    first = [answer.name for answer in balancer.ask(f"{VIP}:82", 8, sources=CLIENTS)]
    balancer.host.call(drive.refuse_the_next_delta)
    outcome = balancer.apply([STICKY])
    assert outcome.transaction == "replace"
    assert asked_backwards(balancer) == first
    assert not balancer.apply([STICKY]).changed


# -- limits that change ----------------------------------------------------------------------------------------------


def test_a_lowered_limit_of_connections_holds_for_known_clients(balancer: Balancer) -> None:
    """Connections that are open when it changes go on, and do not count: the count begins anew."""
    balancer.apply([service(max_connections_per_client=5)])
    # One, so that it and those that come after it stay below the old limit.
    old = balancer.hold(count=1, source=GUEST)
    balancer.apply([service(max_connections_per_client=2)])
    assert all(balancer.talk(handle).name for handle, _answer in old)
    new = balancer.hold(count=2, source=GUEST)
    assert all(answer.name for _handle, answer in new)
    assert balancer.tally(count=3, sources=[GUEST]) == {REFUSED: 3}


def test_a_raised_limit_of_connections_holds_for_known_clients(balancer: Balancer) -> None:
    balancer.apply([service(max_connections_per_client=2)])
    balancer.hold(count=2, source=GUEST)
    assert balancer.tally(sources=[GUEST]) == {REFUSED: 1}
    balancer.apply([service(max_connections_per_client=4)])
    assert all(answer.name for _handle, answer in balancer.hold(count=4, source=GUEST))
    assert balancer.tally(sources=[GUEST]) == {REFUSED: 1}


def test_a_lowered_rate_holds_for_known_clients(balancer: Balancer) -> None:
    balancer.apply([service(new_connections_per_second=50)])
    assert REFUSED not in balancer.tally(count=5, sources=[GUEST])
    balancer.apply([service(new_connections_per_second=1)])
    seen = balancer.tally(count=20, sources=[GUEST])
    print(f"{balancer.engine}: {20 - seen[REFUSED]} of 20 at once, one per second")
    assert 1 <= 20 - seen[REFUSED] <= 3


# -- sets that are full ----------------------------------------------------------------------------------------------

#: As many clients as a set holds in these tests, instead of CLIENTS of nftables/render.py and iptables/service.py.
ROOM = 32


def crowded(balancer: Balancer, **keys: object) -> Callable[[int], list[traffic.Answer]]:
    """Apply with small sets; what is returned has the first so many clients ask once."""
    options = {"engine": balancer.engine, **({"iptables_variant": balancer.variant} if balancer.variant else {})}
    balancer.host.call(drive.balance_in_small_sets, balancer._root, ROOM, [service(**keys)], **options)
    sources = [f"198.18.3.{i}" for i in range(1, 201)]
    return lambda count: balancer.ask(count=count, sources=sources[:count])


def test_clients_that_affinity_has_no_room_for_are_served(balancer: Balancer) -> None:
    """Served, and where nobody can be remembered any more, not remembered: 100 is xt_recent's ip_list_tot."""
    ask = crowded(balancer, affinity=600, backends=webs("web1"))
    assert traffic.tally(ask(ROOM + 100)) == {"web1": ROOM + 100}


def test_clients_that_the_rate_has_no_room_for(balancer: Balancer) -> None:
    """nftables serves them without a limit. xt_hashlimit drops their packets until it has forgotten somebody, a second
    later: the client's next SYN gets through."""
    ask = crowded(balancer, new_connections_per_second=100, backends=webs("web1"))
    answers = ask(ROOM + 1)
    assert traffic.tally(answers) == {"web1": ROOM + 1}


def test_clients_that_the_count_has_no_room_for_are_served(balancer: Balancer) -> None:
    """nftables serves them without a limit; xt_connlimit has room for any number."""
    crowded(balancer, max_connections_per_client=1, backends=webs("web1"))
    for i in range(ROOM + 3):
        ((_handle, answer),) = balancer.hold(source=f"198.18.3.{i + 1}")
        assert answer.name == "web1", i
    assert balancer.tally(sources=["198.18.3.1"]) == {REFUSED: 1}
