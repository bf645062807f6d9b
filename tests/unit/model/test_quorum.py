# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many backends have to be healthy, and what is remembered of a service that has fallen below."""

from __future__ import annotations

import json
from typing import Any

import pytest
from _natlb.model import kept, local_state
from _natlb.model.effective import Finding, Override, Place, deviations, effective, effective_backends, quorums, whole
from _natlb.model.entities import Config
from _natlb.model.outdated import lasting_findings
from _natlb.model.quorum import Least, Quorum, read_least
from _natlb.model.quorum_memory import crossed, remembering
from _natlb.model.services import parse_config
from _natlb.plan import request
from _natlb.status.news import of_findings

A, B, C, D = "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"
DRAINED, UP, DRAIN, DOWN = Override("drained"), Finding("up"), Finding("drain"), Finding("down")
SIX = [{"address": f"2001:db8::{number}", "port": 80} for number in (3, 4)]
SIX_A = SIX[0]["address"]
BOTH = ["192.0.2.10:80", "[2001:db8::10]:80"]
WHOLE = whole("web", "ip")
BELOW = {WHOLE: Finding("down", "then", "words")}
NOW = "2026-11-26T01:00:00Z"


def backend(address: str, **keys: Any) -> dict[str, Any]:
    return {"address": address, "port": 80, **keys}


def config(*backends: dict[str, Any], **keys: Any) -> Config:
    item = {"name": "web", "listen": "192.0.2.10:80", "health": {"type": "tcp"}, "backends": list(backends), **keys}
    return parse_config([{key: value for key, value in item.items() if value is not None}])


def place(address: str) -> Place:
    return Place("web", address, 80)


@pytest.mark.parametrize(
    ("value", "declared", "number"),
    [(3, 10, 3), ("3", 10, 3), ("40%", 10, 4), ("40%", 4, 2), ("1%", 4096, 41), ("100%", 3, 3), ("50 %", 3, 2)],
)
def test_how_many_that_is(value: Any, declared: int, number: int) -> None:
    assert read_least(value, "").of(declared) == number


def of(least: Any = 2, again: Any = None, *backends: dict[str, Any], **keys: Any) -> Config:
    """Three backends and a backup."""
    some = backends or (backend(A), backend(B), backend(C), backend(D, backup=True))
    return config(*some, min_healthy=least, min_healthy_again=again, **keys)


def serving(declared: Config, overrides: Any = (), findings: Any = (), family: str = "ip") -> list[str]:
    (service,) = effective(declared, dict(overrides), dict(findings)).services
    return [item.address for item in service.serving(family)]


def down(*addresses: str) -> dict[Any, Finding]:
    return {place(address): DOWN for address in addresses}


FAILS_OPEN = {"health": {"type": "tcp", "fail_open": True}}


@pytest.mark.parametrize(
    ("declared", "overrides", "findings", "wanted"),
    [
        (of(), {}, {}, [A, B, C]),
        (of(), {}, down(A), [B, C]),
        (of(), {}, down(A, B), [D]),
        (of(), {}, down(A, B, C), [D]),
        (of(), {}, down(A, B, C, D), []),
        (of("60%"), {}, down(A), [B, C]),
        (of("60%"), {}, down(A, B), [D]),
        # One that is declared with weight 0 is not one of those that the quorum is of.
        (
            of(2, None, backend(A), backend(B), backend(C, weight=0), backend(D, backup=True)),
            {place(C): Override(None, 3)},
            down(A),
            [D],
        ),
        (of(3), {}, {place(A): DRAIN}, [D]),
        (of(2), {place(A): DRAINED}, down(B), [D]),
        (of(2), {place(A): DRAINED}, {}, [B, C]),
        (of(2), {place(A): DRAINED, place(B): Override(weight=0)}, {}, [D]),
        (of(2), {place(D): DRAINED}, down(A, B), []),
        # A share of its weight is no less healthy.
        (of(3), {}, {place(A): Finding("up", share=0.1)}, [A, B, C]),
        # What is remembered.
        (of(2, 3), {}, {**BELOW, **down(A)}, [D]),
        (of(2, 3), {}, BELOW, [A, B, C]),
        (of(2), {}, {**BELOW, **down(A)}, [B, C]),
        (of(2, "100%"), {}, {**BELOW, **down(A)}, [D]),
        # As it is declared.
        (of(2, None, backend(A, state="drained"), backend(B, weight=0), backend(C), backend(D)), {}, {}, [C, D]),
        (of(3, None, backend(A, state="drained"), backend(B), backend(C), backend(D, backup=True)), {}, {}, [D]),
        (of("100%", None, backend(A), backend(B, weight=0), backend(C), backend(D, backup=True)), {}, {}, [A, C]),
        # Nobody takes over.
        (of(2, None, backend(A), backend(B)), {}, down(A), []),
        (of(2, None, backend(A), backend(B), **FAILS_OPEN), {}, down(A), [B]),
        (of(2, None, backend(A), backend(B), **FAILS_OPEN), {}, down(A, B), [A, B]),
        (of(2, **FAILS_OPEN), {}, down(A, B), [D]),
        (of(2, **FAILS_OPEN), {}, down(A, B, D), [C]),
        (of(2, **FAILS_OPEN), {}, {**BELOW, **down(A, B, C, D)}, [A, B, C]),
        # Without one.
        (of(None), {}, {**BELOW, **down(A, B)}, [C]),
    ],
    ids=str,
)
def test_who_serves(declared: Config, overrides: Any, findings: Any, wanted: list[str]) -> None:
    assert serving(declared, overrides, findings) == wanted


def test_each_family_counts_by_itself() -> None:
    declared = of(2, None, backend(A), backend(B), *SIX, listen=BOTH)
    findings = {place(SIX_A): DOWN}
    assert serving(declared, {}, findings) == [A, B]
    assert serving(declared, {}, findings, "ip6") == []
    found = remembering(declared.services, {}, findings, NOW)
    assert found == {**findings, whole("web", "ip6"): Finding("down", NOW, "1 of 2 IPv6 backends healthy, back at 2")}


def test_it_is_told() -> None:
    findings = {**BELOW, **down(A, B)}
    (service,) = of(2, 3).services
    found = effective_backends(service, {}, findings)
    assert [item.because for item in found] == ["health", "health", "min_healthy", "declared"]
    assert found[2].why() == "below min_healthy since then: 1 of 3 backends healthy, back at 3"
    assert found[2].effective.state == "active"
    (count,) = quorums(service, found, findings)
    assert (count.is_below, count.healthy, count.needed, count.declared, count.since) == (True, 1, 3, 3, "then")
    (count,) = quorums(service, effective_backends(service, {}, {}), {})
    assert (count.is_below, count.needed, count.since) == (False, 2, None)
    assert quorums(of(None).services[0], found, findings) == []
    assert [service.name for service, _found in deviations(of(2, 3), {}, {**BELOW, place(A): DOWN})] == ["web"]


def test_a_service_that_is_below_is_no_ordinary_one_though_no_backend_is_left_out() -> None:
    findings = down(A, B, C)
    assert [service.name for service, _found in deviations(of(), {}, findings)] == ["web"]
    declared = of(3, None, backend(A, state="drained"), backend(B), backend(C))
    assert [service.name for service, _found in deviations(declared, {}, {})] == ["web"]
    declared = of(3, None, backend(A, state="drained"), backend(B), backend(C), **FAILS_OPEN)
    assert [service.name for service, _found in deviations(declared, {}, {})] == ["web"]
    assert not list(deviations(of(), {}, {}))


def steps(declared: Config, *moments: dict[Any, Finding]) -> list[bool]:
    """Whether the service is below after each of these."""
    memory: Any = {}
    found = []
    for moment in moments:
        memory = remembering(declared.services, {}, {**{p: f for p, f in memory.items() if p == WHOLE}, **moment}, NOW)
        assert remembering(declared.services, {}, memory, "later") is memory, "who looks again sees no other"
        found.append(WHOLE in memory)
    return found


def test_it_comes_back_later_than_it_fell() -> None:
    moments = ({}, down(A), down(A, B), down(A), {}, down(A))
    assert steps(of(2, 3), *moments) == [False, False, True, True, False, False]
    assert steps(of(2), *moments) == [False, False, True, False, False, False]


def test_what_fail_open_keeps_is_not_healthy() -> None:
    """It serves, for want of others, and the service is below as ever."""
    findings = {**BELOW, **down(A, B, C, D)}
    assert remembering(of(2, 3, **FAILS_OPEN).services, {}, findings, NOW) is findings
    assert remembering(of(2, 3, **FAILS_OPEN).services, {}, down(A, B, C, D), NOW)[WHOLE].state == "down"


def test_what_is_remembered_is_kept_as_long_as_the_service_has_a_quorum() -> None:
    findings = {**BELOW, place(A): UP}
    former = {place(address): ("active", 1) for address in (A, B, C, D)}
    for known in (None, former, {}):
        assert WHOLE in lasting_findings(findings, of(2, 3), known)
        assert WHOLE not in lasting_findings(findings, of(None), known)
        assert WHOLE not in lasting_findings(findings, of(2, name="other"), known)
    text = local_state.dump_findings(findings, "here")
    assert local_state.parse_findings(text, "here").entries == findings
    assert remembering(of(None).services, {}, findings, NOW) is findings


def test_crossings() -> None:
    before, after, services = {place(A): UP}, {**BELOW, place(A): DOWN}, of(2).services
    assert [tuple(item) for item in crossed(before, after, services)] == [
        ("web", True, "web is below min_healthy: words")
    ]
    again = [("web", False, "web has enough healthy backends again")]
    assert [tuple(item) for item in crossed(after, before, services)] == again
    assert not list(crossed(after, after, services))
    told = [item.message for item in of_findings(before, after, {place(A): "a"}, services)]
    assert sorted(told) == ["a of web is down", "web is below min_healthy: words"]
    told = [item.message for item in of_findings(after, before, {place(A): "a"}, services)]
    assert told == ["a of web is up", "web has enough healthy backends again"]


@pytest.mark.parametrize("now", [of(2, name="other"), of(None)], ids=["removed", "without a quorum"])
def test_a_service_that_counts_no_more_has_not_enough_again(now: Config) -> None:
    assert list(crossed(BELOW, {}, now.services)) == []
    assert list(of_findings(BELOW, {}, {}, now.services)) == []


@pytest.mark.parametrize("keys", [{}, {"min_healthy": 2}, {"min_healthy": "40%", "min_healthy_again": 3}], ids=str)
def test_it_is_kept(keys: Any) -> None:
    (service,) = config(backend(A), backend(B), backend(C), **keys).services
    item = json.loads(service.line)
    assert {key: item[key] for key in keys} == keys
    assert kept.service(item, service.line, {}) == service
    assert request.declared({"services": [item]}).services == (service,)


def test_again_is_the_same_where_nothing_is_said() -> None:
    assert of(2).services[0].quorum == Quorum(Least(2), Least(2))
    assert of(2, 2).services[0].quorum == of(2).services[0].quorum
