# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Round robin is exact: each backend gets its share to the connection, in an even order."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import pytest
from kernel_lab import traffic
from kernel_lab.balancer import Balancer, service, webs, weighted
from kernel_lab.topology import NAMES, OTHER_VIP, VIP, VIP6, WEB, WEB6

ROUNDS = 10


def test_equal_backends_take_turns(balancer: Balancer) -> None:
    balancer.apply([service()])
    answers = balancer.ask(count=ROUNDS * 4)
    assert traffic.tally(answers) == dict.fromkeys(NAMES, ROUNDS)
    for i in range(len(answers) - 3):
        assert len({answer.name for answer in answers[i : i + 4]}) == 4, "four in a row are four backends"


@pytest.mark.parametrize("weights", [{"web1": 5, "web2": 3, "web3": 2}, {"web1": 6, "web2": 4, "web3": 2, "web4": 2}])
def test_weights_are_shares(balancer: Balancer, weights: dict[str, int]) -> None:
    balancer.apply([service(backends=weighted(**weights))])
    assert balancer.tally(count=ROUNDS * sum(weights.values())) == {k: ROUNDS * v for k, v in weights.items()}


def test_the_order_is_evenly_interleaved(balancer: Balancer) -> None:
    balancer.apply([service(backends=weighted(web1=5, web2=3, web3=2))])
    order = [answer.name for answer in balancer.ask(count=100)]
    for i in range(91):
        assert Counter(order[i : i + 10]) == {"web1": 5, "web2": 3, "web3": 2}, "any ten in a row hold the shares"
    assert max(len(list(run)) for _name, run in groupby(order)) == 1, "never twice in a row, with half at most"


def test_services_count_for_themselves(balancer: Balancer) -> None:
    other = service("other", listen=[f"{OTHER_VIP}:80"], backends=weighted(web2=2, web3=1))
    balancer.apply([service(), other])
    first, second = [], []
    for _unused in range(30):
        first += balancer.ask(f"{VIP}:80")
        second += balancer.ask(f"{OTHER_VIP}:80", 2)
    assert traffic.tally(first[:28]) == dict.fromkeys(NAMES, 7)
    assert traffic.tally(second) == {"web2": 40, "web3": 20}


def test_udp_is_counted_by_flow(balancer: Balancer) -> None:
    balancer.apply([service(protocol="udp", backends=weighted(web1=2, web2=1))])
    assert balancer.tally(count=30, protocol="udp") == {"web1": 20, "web2": 10}
    ((handle, first),) = balancer.hold(protocol="udp")
    assert {balancer.talk(handle).name for _unused in range(5)} == {first.name}


def test_both_protocols_of_a_service_are_exact(balancer: Balancer) -> None:
    balancer.apply([service(protocol=["tcp", "udp"])])
    seen: dict[str, list[traffic.Answer]] = {"tcp": [], "udp": []}
    for _unused in range(20):
        for protocol in seen:
            seen[protocol] += balancer.ask(protocol=protocol)
    for answers in seen.values():
        assert traffic.tally(answers) == dict.fromkeys(NAMES, 5)


def test_ipv6(balancer: Balancer) -> None:
    backends = [{"address": WEB6["web1"], "weight": 3}, {"address": WEB6["web2"], "weight": 2}]
    balancer.apply([service(listen=f"[{VIP6}]:80", backends=backends)])
    assert balancer.tally(f"[{VIP6}]:80", 50) == {"web1": 30, "web2": 20}


def test_families_of_one_service_count_for_themselves(balancer: Balancer) -> None:
    backends = [*webs("web1", "web2"), {"address": WEB6["web3"]}, {"address": WEB6["web4"]}]
    balancer.apply([service(listen=[f"{VIP}:80", f"[{VIP6}]:80"], backends=backends)])
    assert balancer.tally(count=20) == {"web1": 10, "web2": 10}
    assert balancer.tally(f"[{VIP6}]:80", 20) == {"web3": 10, "web4": 10}


def test_as_people_write_it_who_come_from_elsewhere(balancer: Balancer) -> None:
    listen = f"{VIP}:80, [{VIP6}]:80"
    written = [f"{WEB['web1']}:80", {"address": f"[{WEB6['web2']}]:80"}, {"address": WEB["web3"], "state": "maint"}]
    balancer.apply([service(listen=listen, method="wrr", protocol="tcp,udp", backends=written)])
    assert balancer.tally(count=4) == {"web1": 4}
    assert balancer.tally(f"[{VIP6}]:80", 4) == {"web2": 4}
    shares = [{"address": WEB["web1"], "weight": "75%"}, {"address": WEB["web2"], "weight": "25%"}]
    balancer.apply([service(backends=shares)])
    assert balancer.tally(count=20) == {"web1": 15, "web2": 5}
