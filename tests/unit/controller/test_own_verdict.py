# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a balancer's own connections say of a change that waits: what undoes it, and what is told."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from typing import Any

import pytest
from _natlb.model.slots import interleave
from ansible_collections.natlb.netfilter.plugins.filter import verify_probes as probes_plugin
from ansible_collections.natlb.netfilter.plugins.filter import verify_verdict as verdict_plugin
from ansible_collections.natlb.netfilter.plugins.plugin_utils import own_shares

verdict = verdict_plugin.FilterModule().filters()["verify_verdict"]
probes = probes_plugin.FilterModule().filters()["verify_probes"]


def service(*new: int, weights: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    given = weights or (1,) * len(new)
    backends = [
        {
            "name": f"web{number}",
            "address": f"10.0.0.{2 + number}",
            "port": 8080,
            "weight": weight,
            "new_connections": count,
            "expected_share": weight / sum(given),
            "health": "unchecked",
        }
        for number, (count, weight) in enumerate(zip(new, given, strict=True), 1)
    ]
    named = {"name": "web", "listen": ["192.0.2.10:80"], "protocol": ["tcp"], "method": "round_robin"}
    return {**named, "backends": backends, **more}


def info(*services: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"services": list(services), "drift": False, "forwarding": True, "egress": [], **more}


def judged(before: Any, after: Any, result: Any = None, **variables: Any) -> dict[str, list[str]]:
    items = probes(after["services"], overrides=variables.get("natlb_verify_probes"), connections=100, own=True)
    given = {"connections": 100, "errors": 0, "error_messages": [], **(result or {})}
    host = {
        "natlb_verify_before": before,
        "natlb_read": after,
        "natlb_verify_answers": {"results": [{"item": item, **given} for item in items]},
        "natlb_verify_checks": {"results": []},
        **variables,
    }
    found: dict[str, list[str]] = verdict({"lb1": host}, ["lb1"], own=True)["lb1"]
    return found


def grown(*new: int, **more: Any) -> dict[str, list[str]]:
    return judged(info(service(*(0 for _count in new), **more)), info(service(*new, **more)))


def test_turns_are_exact() -> None:
    assert grown(50, 50) == {
        "lines": ["lb1: web: web1 50, web2 50 (100 of 100 connections to 192.0.2.10:80 succeeded)"],
        "problems": [],
        "doubts": [],
    }
    (problem,) = grown(55, 45)["problems"]
    assert problem == (
        "lb1: web: the balancer's own 100 connections were not passed on in turns: web1: expected 50, seen 55; web2: "
        "expected 50, seen 45"
    )


def test_no_turns_of_any_weights_are_a_false_alarm() -> None:
    """Wherever in a circle the connections begin, and whatever their number."""
    chosen = random.Random(1)
    for _case in range(3000):
        weights = tuple(chosen.randint(1, 9) for _backend in range(chosen.randint(1, 6)))
        circle = itertools.cycle(interleave(weights))
        for _before in range(chosen.randrange(sum(weights))):
            next(circle)
        counts = Counter(itertools.islice(circle, chosen.randint(1, 200)))
        found = service(*(counts[number] for number in range(len(weights))), weights=weights)
        growth = {False: {item["name"]: item["new_connections"] for item in found["backends"]}}
        assert list(own_shares.wrong(found, growth, {False: 1})) == []


def test_what_is_told_is_seldom_told_for_nothing() -> None:
    assert 1000 * 30 * own_shares.TOLD_SIGNIFICANCE < 0.1
    assert math.isclose(1 / (1000 * 30 * own_shares.TOLD_SIGNIFICANCE), 33, rel_tol=0.02)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"method": "random"}, "the method random leaves it to chance"),
        ({"method": "flow_hash"}, "the method flow_hash leaves it to chance"),
        ({"method": "least_connections"}, "the shares change with the connections"),
        ({"redispatch": True}, "attempts may take another backend"),
    ],
)
def test_what_may_be_right_is_told(more: dict[str, Any], why: str) -> None:
    found = grown(100, 0, **more)
    assert found["problems"] == []
    (doubt,) = found["doubts"]
    assert doubt.endswith(f"(this undoes nothing: {why})")


def test_connections_of_clients_undo_nothing() -> None:
    """Counters of backends are read one after the other, while clients come."""
    found = grown(900, 300)
    assert found["problems"] == []
    assert found["doubts"][0].endswith("(this undoes nothing: other connections were counted as well)")


def test_health_that_changes_meanwhile_undoes_nothing() -> None:
    before, after = info(service(0, 0)), info(service(90, 10))
    after["services"][0]["backends"][1].update(health="down", expected_share=0.0)
    found = judged(before, after)
    assert (found["problems"], len(found["doubts"])) == ([], 1)
    assert found["doubts"][0].endswith("(this undoes nothing: health checks may change the shares meanwhile)")


def test_shares_that_change_meanwhile_undo_nothing() -> None:
    after = info(service(100, 0))
    after["services"][0]["backends"][1].update(expected_share=0.5)
    before = info(service(0, 0))
    before["services"][0]["backends"][1].update(expected_share=0.1)
    assert judged(before, after)["doubts"][0].endswith("(this undoes nothing: the shares changed meanwhile)")


@pytest.mark.parametrize("what", ["generation", "health_since", "override"])
def test_counters_that_began_anew_meanwhile_undo_nothing(what: str) -> None:
    """The agent took a backend out, or another tool flushed all: what was counted before that is gone."""
    before, after = info(service(0, 0), generation=7), info(service(40, 0), generation=7)
    (problem,) = judged(before, after)["problems"]
    assert "100 connections to 192.0.2.10:80 succeeded, and lb1 counted 40" in problem
    changed = after if what == "generation" else after["services"][0]["backends"][1]
    changed[what] = 8
    found = judged(before, after)
    assert found["problems"] == []
    assert found["doubts"] == ["lb1: web: its rules were changed during the probes, so its counters were not judged"]


@pytest.mark.parametrize(("ports", "places", "connections"), [(80, 1, 40), (80, 2, 20), (2, 1, 1), (4000, 1, 100)])
def test_few_ports_get_few_connections_and_are_named(ports: int, places: int, connections: int) -> None:
    listen = ["192.0.2.10:80", "192.0.2.11:80"][:places]
    web = service(0, 0, snat_connections=ports, listen=listen)
    assert {item["options"]["connections"] for item in probes([web], connections=100, own=True)} == {connections}
    failed = {"errors": 3, "error_messages": [{"message": "connect: timed out", "count": 3}]}
    (problem, *_others) = judged(info(web), info(web), failed)["problems"]
    assert f"snat_ports allow {ports} connections at a time to one backend" in problem
    assert "widen the range" in problem


def test_a_service_whose_source_address_is_elsewhere_is_told_and_undoes_nothing() -> None:
    told = info(service(0, 0, snat_elsewhere=["10.0.0.10"]))
    found = judged(told, told)
    assert found["problems"] == []
    assert found["doubts"] == [
        "lb1: web: not probed, as answers to its source address 10.0.0.10 come to another host now"
    ]


def test_of_two_families_the_one_whose_source_address_is_here_is_probed() -> None:
    """What it does wrong undoes the change, as ever."""
    web = service(0, 0, listen=["192.0.2.10:80", "[2001:db8:1::10]:80"], snat_elsewhere=["10.0.0.10"])
    web["backends"][1]["address"] = "2001:db8:2::4"
    assert [item["options"]["target"] for item in probes([web], own=True)] == ["[2001:db8:1::10]:80"]
    failed = {"errors": 100, "error_messages": [{"message": "connect: timed out", "count": 100}]}
    found = judged(info(web), info(web), failed)
    assert (
        "lb1: web: 100 of 100 connections to [2001:db8:1::10]:80 failed: connect: timed out (100)" in found["problems"]
    )
    assert found["doubts"] == [
        "lb1: web: not probed over IPv4, as answers to its source address 10.0.0.10 come to another host now"
    ]


@pytest.mark.parametrize(
    ("weights", "more", "connections"),
    [
        ((1, 1), {}, 40),
        ((1, 1), {"method": "source_hash"}, 20),
        ((1, 1), {"affinity": 60}, 20),
        ((1, 1), {"pins": 1}, 20),
        ((9, 1), {}, 22),
        ((1,), {}, 20),
    ],
    ids=str,
)
def test_few_ports_are_not_used_up_at_one_backend(
    weights: tuple[int, ...], more: dict[str, Any], connections: int
) -> None:
    """No backend gets more than 20 of the connections: a quarter of its 80 ports."""
    web = service(*(0 for _weight in weights), weights=weights, snat_connections=80, **more)
    (item,) = probes([web], connections=100, own=True)
    assert item["options"]["connections"] == connections


@pytest.mark.parametrize("method", ["round_robin", "random", "source_hash"])
def test_who_should_get_nothing_gets_nothing(method: str) -> None:
    before, after = info(service(0, 0, method=method)), info(service(99, 1, method=method))
    for told in (before, after):
        told["services"][0]["backends"][1]["expected_share"] = 0.0
    assert judged(before, after)["problems"] == ["lb1: web: web2: got connections, but should get none"]


def test_rules_that_are_reloaded_meanwhile_undo_nothing() -> None:
    found = judged(info(service(10, 10)), info(service(5, 5)))
    assert found["problems"] == []
    assert found["doubts"] == ["lb1: web: its rules were changed during the probes, so its counters were not judged"]
    failed = {"errors": 1, "error_messages": [{"message": "connect: timed out", "count": 1}]}
    (problem,) = judged(info(service(10, 10)), info(service(5, 5)), failed)["problems"]
    assert problem.startswith("lb1: web: 1 of 100 connections to 192.0.2.10:80 failed: connect: timed out")


def test_answers_that_are_spread_otherwise_undo_nothing() -> None:
    asked = {"natlb_verify_probes": {"web": {"protocol": "http"}}}
    uneven = {"backends": {"web1": 90, "web2": 10}, "msg": "the spread of 100 answers is not the expected one (p)"}
    found = judged(info(service(0, 0)), info(service(50, 50)), uneven, **asked)
    assert found["problems"] == []
    assert found["doubts"] == ["lb1: web: 192.0.2.10:80: the spread of 100 answers is not the expected one (p)"]


def test_nothing_may_be_declared() -> None:
    assert judged(info(), info()) == {"lines": ["lb1: no services: nothing to probe"], "problems": [], "doubts": []}
    (problem,) = judged(info(), info(), natlb_verify_declared=["web"])["problems"]
    assert problem.startswith("lb1: has none of the declared services")


def test_options_for_services_of_other_balancers_undo_nothing() -> None:
    chosen = {"natlb_verify_probes": {"api": {"timeout": "1s"}}}
    assert judged(info(service(0, 0)), info(service(50, 50)), **chosen)["problems"] == []


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"restricted": True}, "not everybody may connect to it"),
        ({"interface": "eth1"}, "it takes only what comes in by eth1"),
        ({"listen": ["0.0.0.0/0:443"]}, "the balancer's own connections to networks are not balanced"),
        ({"listen": ["[2001:db8::1]:80"]}, "no backend can serve in the family of its addresses"),
    ],
)
def test_why_it_is_not_probed(more: dict[str, Any], why: str) -> None:
    assert grown(0, 0, **more)["lines"] == [f"lb1: web: not probed, as {why}"]


def test_a_limit_of_backends_is_why() -> None:
    limited = service(0, 0)
    limited["backends"][0]["max_connections"] = 2
    why = "its backends have limits, and the probes would take the room of clients"
    assert judged(info(limited), info(limited))["lines"] == [f"lb1: web: not probed, as {why}"]


def test_of_many_services_some_are_not_chosen() -> None:
    many = [service(0, 0, name=f"web{number}", listen=[f"192.0.2.{number}:80"]) for number in range(1, 34)]
    after = [service(50, 50, name=one["name"], listen=one["listen"]) for one in many]
    lines = judged(info(*many), info(*after))["lines"]
    assert lines[1] == "lb1: web2: not probed, as there are many addresses, and others were chosen"
    assert len([line for line in lines if "many addresses" in line]) == 16


DEAD = {"errors": 3, "error_messages": [{"message": "connect: timed out", "count": 3}]}
UNANSWERED = {
    "item": {"service": "web", "backend": "web2", "options": {"target": "10.0.0.4:8080"}},
    "connections": 1,
    "errors": 1,
    "error_messages": [{"message": "connect: Connection refused", "count": 1}],
}


@pytest.mark.parametrize(("health", "undoes"), [("tcp", False), (None, True)])
def test_a_dead_backend_undoes_nothing_where_its_health_is_checked(health: str | None, undoes: bool) -> None:
    before, after = (info(service(*counts, health=health)) for counts in ((0, 0), (97, 0)))
    found = judged(before, after, DEAD, natlb_verify_checks={"results": [UNANSWERED]})
    told = found["problems" if undoes else "doubts"]
    assert [line[:40] for line in told[:2]] == [
        "lb1: web: 3 of 100 connections to 192.0.",
        "lb1: web: backend web2 does not answer l",
    ]
    assert bool(found["problems"]) is undoes


def test_nobody_who_answers_undoes_a_change_also_with_health() -> None:
    """Such as the wrong port for all."""
    silent = {"errors": 100, "error_messages": [{"message": "connect: Connection refused", "count": 100}]}
    found = judged(info(service(0, 0, health="tcp")), info(service(0, 0, health="tcp")), silent)
    assert "lb1: web: 100 of 100 connections to 192.0.2.10:80 failed" in found["problems"][0]
