# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may come in, how often, how many at a time, and back to whom."""

from __future__ import annotations

import ipaddress
import time
from typing import Any

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import BACK, CLIENT, NAMES, VIP, VIP6, WEB6

GUEST, STRANGER = "198.18.7.7", "198.18.9.9"
GUEST6, STRANGER6 = "2001:db8:18::7", "2001:db8:18::9"
REFUSED = "ConnectionRefusedError"
AFFINITY_S = 1


def until(balancer: Balancer, wanted: int, **options: object) -> int:
    """Ask every 50 ms until `wanted` connections in all were answered; how many of the others were refused."""
    answered = refused = 0
    deadline = time.monotonic() + 5
    while answered < wanted and time.monotonic() < deadline:
        if balancer.ask(**options)[0].name:  # type: ignore[arg-type]
            answered += 1
        else:
            refused += 1
            time.sleep(0.05)
    assert answered == wanted
    return refused


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_allow_from(balancer: Balancer, protocol: str) -> None:
    allowed = ["198.18.7.0/24", CLIENT]
    balancer.apply([service(protocol=protocol, allow_from=allowed)])
    for source in (GUEST, CLIENT):
        assert balancer.tally(count=4, protocol=protocol, sources=[source]) == dict.fromkeys(NAMES, 1)
    answers = balancer.ask(protocol=protocol, sources=[STRANGER])
    assert traffic.tally(answers) == {REFUSED: 1}, "as if nothing listened"
    assert answers[0].resent == 0, "the first packet is answered"


def test_allow_from_over_ipv6(balancer: Balancer) -> None:
    backends = [*webs("web1"), {"address": WEB6["web2"]}]
    allowed = ["2001:db8:18::/125", "198.18.7.0/24"]
    balancer.apply([service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], allow_from=allowed, backends=backends)])
    assert balancer.tally(f"[{VIP6}]:80", sources=[GUEST6]) == {"web2": 1}
    assert balancer.tally(f"[{VIP6}]:80", sources=[STRANGER6]) == {REFUSED: 1}
    assert balancer.tally(sources=[GUEST]) == {"web1": 1}
    assert balancer.tally(sources=[STRANGER]) == {REFUSED: 1}


def test_allow_from_is_the_services_own(balancer: Balancer) -> None:
    balancer.apply([service(allow_from=["198.18.7.0/24"]), service("open", listen=f"{VIP}:8080")])
    assert balancer.tally(f"{VIP}:80", sources=[STRANGER]) == {REFUSED: 1}
    assert balancer.tally(f"{VIP}:8080", 4, sources=[STRANGER]) == dict.fromkeys(NAMES, 1)


def test_a_large_allow_list(balancer: Balancer) -> None:
    nets = [f"198.18.{i}.{j}/31" for i in range(8) for j in range(0, 256, 4)]
    balancer.apply([service(allow_from=nets, backends=webs("web1"))])
    assert balancer.tally(sources=["198.18.7.5"]) == {"web1": 1}
    assert balancer.tally(sources=["198.18.7.7"]) == {REFUSED: 1}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_deny_from(balancer: Balancer, protocol: str) -> None:
    # Not an address of the frontend's network: redirects of the kernel take the place of refusals there.
    for denied in (["198.18.7.0/24"], ["198.18.7.0/24", "203.0.113.0/24", "198.18.8.8"]):
        balancer.apply([service(protocol=protocol, deny_from=denied)])
        assert balancer.tally(count=4, protocol=protocol, sources=[STRANGER]) == dict.fromkeys(NAMES, 1)
        assert balancer.tally(protocol=protocol, sources=[GUEST]) == {REFUSED: 1}
    assert balancer.tally(protocol=protocol, sources=["198.18.8.8"]) == {REFUSED: 1}
    balancer.apply([service(protocol=protocol)])
    assert balancer.tally(count=4, protocol=protocol, sources=[GUEST]) == dict.fromkeys(NAMES, 1)


def test_the_longest_prefix_decides(balancer: Balancer) -> None:
    backends = [*webs("web1"), {"address": WEB6["web2"]}]
    lists: dict[str, Any] = {
        "allow_from": ["198.18.0.0/16", f"{GUEST}/32", "2001:db8:18::/64"],
        "deny_from": [str(ipaddress.ip_network(f"{GUEST}/24", strict=False)), f"{GUEST6}/128"],
    }
    balancer.apply([service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=backends, **lists)])
    beside = str(ipaddress.ip_address(GUEST) + 1)
    assert balancer.tally(sources=[GUEST]) == {"web1": 1}
    assert balancer.tally(sources=[beside]) == {REFUSED: 1}
    assert balancer.tally(sources=[CLIENT]) == {REFUSED: 1}
    assert balancer.tally(f"[{VIP6}]:80", sources=[GUEST6]) == {REFUSED: 1}
    assert not balancer.apply([service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=backends, **lists)]).changed


@pytest.mark.parametrize("limits", [{}, {"max_connections_per_client": 50}], ids=["alone", "with a limit"])
def test_who_is_denied_may_get_no_answer(balancer: Balancer, limits: dict[str, int]) -> None:
    keys: dict[str, Any] = {"deny_from": f"{GUEST}/32", **limits}
    balancer.apply([service(**keys, when_denied="drop"), service("other", listen=f"{VIP}:81", **keys)])
    (answer,) = balancer.ask(sources=[GUEST], timeout_s=1.5)
    assert (answer.error, answer.resent) == ("TimeoutError", 1)
    assert balancer.tally(f"{VIP}:81", sources=[GUEST]) == {REFUSED: 1}
    assert balancer.tally(count=4, sources=[STRANGER]) == dict.fromkeys(NAMES, 1)
    # Where nobody serves, everybody gets the answer for that.
    balancer.apply([service(**keys, when_denied="drop", backends=[])])
    assert balancer.tally(sources=[STRANGER]) == {REFUSED: 1}


def test_connections_per_client(balancer: Balancer) -> None:
    balancer.apply([service(max_connections_per_client=3)])
    held = balancer.hold(count=3, source=GUEST)
    assert all(answer.name for _handle, answer in held)
    assert balancer.tally(count=3, sources=[GUEST]) == {REFUSED: 3}
    assert all(balancer.talk(handle).name for handle, _answer in held), "the others are not touched"
    assert balancer.tally(count=2, sources=[STRANGER]).keys() <= set(NAMES), "each client has its own count"
    balancer.client.call(traffic.release)
    until(balancer, 1, sources=[GUEST])


def test_connections_per_client_over_ipv6(balancer: Balancer) -> None:
    backends = [{"address": WEB6["web1"]}]
    balancer.apply([service(listen=f"[{VIP6}]:80", max_connections_per_client=2, backends=backends)])
    assert len(balancer.hold(f"[{VIP6}]:80", 2, source=GUEST6)) == 2
    assert balancer.tally(f"[{VIP6}]:80", sources=[GUEST6]) == {REFUSED: 1}
    assert balancer.tally(f"[{VIP6}]:80", sources=[STRANGER6]) == {"web1": 1}


def test_new_connections_per_second(balancer: Balancer) -> None:
    rate = 5
    balancer.apply([service(new_connections_per_second=rate)])
    seen = balancer.tally(count=40, sources=[GUEST])
    served = 40 - seen[REFUSED]
    print(f"{balancer.engine}: {served} of 40 connections at once with {rate} per second")
    assert rate <= served <= 2 * rate
    assert sum(seen.values()) == served + seen[REFUSED]
    assert balancer.tally(count=rate, sources=[STRANGER]).keys() <= set(NAMES), "each client has its own rate"
    until(balancer, 2, sources=[GUEST])


def test_the_three_together(balancer: Balancer) -> None:
    balancer.apply(
        [service(allow_from="198.18.0.0/16", max_connections_per_client=2, new_connections_per_second=50, log=True)]
    )
    assert balancer.tally(sources=[CLIENT]) == {REFUSED: 1}
    assert len(balancer.hold(count=2, source=GUEST)) == 2
    assert balancer.tally(sources=[GUEST]) == {REFUSED: 1}
    assert set(balancer.tally(sources=[STRANGER])) < set(NAMES)


@pytest.mark.parametrize("method", ["round_robin", "random"])
def test_affinity(balancer: Balancer, method: str) -> None:
    balancer.apply([service(method=method, affinity="3h")])
    clients = [f"198.18.0.{i}" for i in range(1, 41)]
    first = [answer.name for answer in balancer.ask(count=40, sources=clients)]
    assert set(first) == set(NAMES)
    again = [answer.name for answer in balancer.ask(count=80, sources=clients[::-1])]
    assert again == first[::-1] * 2, "backwards, since turns alone would give the same in the same order"


def test_affinity_over_ipv6_and_udp(balancer: Balancer) -> None:
    backends = [{"address": address} for address in WEB6.values()]
    balancer.apply([service(listen=f"[{VIP6}]:80", protocol=["tcp", "udp"], affinity=60, backends=backends)])
    clients = [f"2001:db8:18::{i:x}" for i in range(1, 13)]
    for protocol in ("tcp", "udp"):
        first = [a.name for a in balancer.ask(f"[{VIP6}]:80", 12, sources=clients, protocol=protocol)]
        assert set(first) == set(NAMES)
        again = [a.name for a in balancer.ask(f"[{VIP6}]:80", 24, sources=clients[::-1], protocol=protocol)]
        assert again == first[::-1] * 2


def test_affinity_ends(balancer: Balancer) -> None:
    balancer.apply([service(affinity=AFFINITY_S)])
    names = []
    for _unused in range(2):
        names.append(balancer.ask(sources=[GUEST])[0].name)
        assert balancer.ask(sources=[GUEST])[0].name == names[-1]
        time.sleep(AFFINITY_S + 0.6)
    assert len(set(names)) == 2, "after the time the next backend in turn has it"


def test_affinity_survives_a_change_elsewhere(balancer: Balancer) -> None:
    balancer.apply([service(affinity=60)])
    clients = [f"198.18.0.{i}" for i in range(1, 21)]
    first = [answer.name for answer in balancer.ask(count=20, sources=clients)]
    balancer.apply([service(affinity=60), service("other", listen=f"{VIP}:8080")])
    assert [answer.name for answer in balancer.ask(count=20, sources=clients[::-1])] == first[::-1]


@pytest.mark.parametrize("key", [{"state": "drained"}, {"state": "disabled"}, {"weight": 0}], ids=str)
def test_a_backend_that_is_out_loses_its_clients(balancer: Balancer, key: dict[str, str]) -> None:
    balancer.apply([service(affinity=60)])
    clients = [f"198.18.0.{i}" for i in range(1, 21)]
    first = [answer.name for answer in balancer.ask(count=20, sources=clients)]
    balancer.apply([service(affinity=60, backends=[*webs("web1", "web2", "web3"), *webs("web4", **key)])])
    after = [answer.name for answer in balancer.ask(count=20, sources=clients)]
    assert set(after) == {"web1", "web2", "web3"}
    assert [b for a, b in zip(first, after, strict=True) if a != "web4"] == [a for a in first if a != "web4"]


def test_log_is_limited_and_named(balancer: Balancer) -> None:
    balancer.apply([service(log=True)])
    assert balancer.tally(count=40) == dict.fromkeys(NAMES, 10), "more than the log takes"
    shown = balancer.snapshot()["nft"] + balancer.host.run("iptables-legacy-save") + balancer.host.run("iptables-save")
    lines = [line for line in shown.splitlines() if "natlb web " in line]
    assert lines
    assert all("limit" in line for line in lines)


def test_none_of_it_touches_the_way_of_others(balancer: Balancer) -> None:
    balancer.host.sysctl({"ipv4/ip_forward": 1})
    balancer.apply([service(allow_from=["198.18.7.0/24"], max_connections_per_client=1, affinity=60)])
    assert balancer.tally("10.0.0.3:80", 5, sources=[STRANGER]) == {"web1": 5}
    assert balancer.ask("10.0.0.3:80")[0].peer != BACK
