# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who wins: the declaration, an override, or health."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from _natlb.model.effective import EffectiveBackend, Finding, Override, Place, deviations, effective, effective_backends
from _natlb.model.entities import Config, Service
from _natlb.model.services import parse_config
from _natlb.model.slots import dealt_weights, slots
from hypothesis import given
from hypothesis import strategies as st

A, B, C = "10.0.0.3", "10.0.0.4", "10.0.0.5"
DRAINED, DISABLED, ACTIVE = Override("drained"), Override("disabled"), Override("active")
UP, DRAIN, DOWN = Finding("up"), Finding("drain"), Finding("down")


def backend(address: str, **keys: Any) -> dict[str, Any]:
    return {"address": address, "port": 80, **keys}


def config(*backends: dict[str, Any], **keys: Any) -> Config:
    item = {"name": "web", "listen": "192.0.2.10:80", "health": {"type": "tcp"}, "backends": list(backends), **keys}
    return parse_config([{key: value for key, value in item.items() if value is not None}])


def place(address: str, service: str | None = "web", port: int | None = 80) -> Place:
    return Place(service, address, port)


def stands(declared: Config, overrides: Any = (), findings: Any = ()) -> dict[str, str]:
    """State, weight (where it is not 1) and reason of each backend."""
    found = effective_backends(declared.services[0], dict(overrides), dict(findings))
    return {item.declared.address: _short(item) for item in found}


def _short(item: EffectiveBackend) -> str:
    weight = "" if item.effective.weight == 1 else f" weight {item.effective.weight}"
    return f"{item.effective.state}{weight}, {item.because}"


def serving(declared: Config, overrides: Any = (), findings: Any = ()) -> list[str]:
    (service,) = effective(declared, dict(overrides), dict(findings)).services
    return [item.address for item in service.serving("ip")]


@pytest.mark.parametrize(
    ("declared", "override", "finding", "wanted"),
    [
        ({}, None, None, "active, declared"),
        ({}, None, UP, "active, declared"),
        ({}, None, DOWN, "disabled, health"),
        ({}, None, DRAIN, "drained, health"),
        ({}, DRAINED, None, "drained, override"),
        ({}, DRAINED, UP, "drained, override"),
        ({}, DRAINED, DOWN, "disabled, health"),
        ({}, DRAINED, DRAIN, "drained, override"),
        ({}, DISABLED, DOWN, "disabled, override"),
        ({}, DISABLED, UP, "disabled, override"),
        ({}, ACTIVE, None, "active, declared"),
        ({}, ACTIVE, DOWN, "disabled, health"),
        ({}, Override(weight=3), None, "active weight 3, override"),
        ({}, Override(weight=3), DOWN, "disabled weight 3, health"),
        ({}, Override(weight=1), None, "active, declared"),
        ({}, Override(weight=0), None, "drained, override"),
        ({}, Override("drained", 3), None, "drained weight 3, override"),
        ({"weight": 5}, Override(weight=0), None, "drained weight 5, override"),
        ({"weight": 5}, ACTIVE, None, "active weight 5, declared"),
        ({"state": "drained"}, None, UP, "drained, declared"),
        ({"state": "drained"}, None, DOWN, "disabled, health"),
        ({"state": "drained"}, ACTIVE, UP, "drained, declared"),
        ({"state": "drained"}, DISABLED, UP, "disabled, override"),
        ({"state": "disabled"}, DRAINED, UP, "drained, override"),
        ({"state": "disabled"}, None, DOWN, "disabled, declared"),
        ({"state": "disabled"}, Override(weight=0), None, "disabled, declared"),
        ({"weight": 0}, Override(weight=2), None, "active weight 2, override"),
        ({"weight": 0}, None, DOWN, "disabled weight 0, health"),
    ],
    ids=str,
)
def test_one_backend(declared: Any, override: Any, finding: Any, wanted: str) -> None:
    """Health takes out what is in, and puts nothing back; an override that is `active` is none."""
    overrides = {} if override is None else {place(A): override}
    findings = {} if finding is None else {place(A): finding}
    whole = config(backend(A, **declared), backend(B))
    assert stands(whole, overrides, findings) == {A: wanted, B: "active, declared"}


@pytest.mark.parametrize(
    ("overrides", "findings", "wanted"),
    [
        ({}, {}, [A, B]),
        ({place(A): DRAINED}, {}, [B]),
        ({}, {place(A): DOWN}, [B]),
        ({place(A): DRAINED}, {place(B): DOWN}, [C]),
        ({}, {place(A): DOWN, place(B): DOWN}, [C]),
        ({}, {place(A): DOWN, place(B): DOWN, place(C): DOWN}, []),
        ({place(C): DRAINED}, {place(A): DOWN, place(B): DOWN}, []),
    ],
    ids=str,
)
def test_backups_and_nobody(overrides: Any, findings: Any, wanted: list[str]) -> None:
    """Backups come in where every primary is out, whoever took it out; where they are out as well, nobody serves."""
    assert serving(config(backend(A), backend(B), backend(C, backup=True)), overrides, findings) == wanted


@pytest.mark.parametrize(
    ("overrides", "findings", "wanted", "because"),
    [
        ({}, {place(A): DOWN}, [B], "health"),
        ({}, {place(A): DOWN, place(B): DOWN}, [C], "health"),
        ({}, {place(A): DOWN, place(B): DOWN, place(C): DOWN}, [A, B], "fail_open"),
        ({place(A): DRAINED}, {place(A): DOWN, place(B): DOWN, place(C): DOWN}, [B], "health"),
        ({place(C): DISABLED}, {place(A): DOWN, place(B): DOWN}, [A, B], "fail_open"),
        ({}, {place(A): DRAIN, place(B): DOWN, place(C): DOWN}, [B], "health"),
        ({}, {place(A): DRAIN, place(B): DRAIN, place(C): DRAIN}, [], "health"),
        ({place(A): DRAINED, place(B): DRAINED, place(C): DRAINED}, {}, [], "override"),
    ],
    ids=str,
)
def test_fail_open(overrides: Any, findings: Any, wanted: list[str], because: str) -> None:
    """It is for checks that fail all at once: what is drained, by whomever, stays out."""
    declared = config(backend(A), backend(B), backend(C, backup=True), health={"type": "tcp", "fail_open": True})
    assert serving(declared, overrides, findings) == wanted
    assert stands(declared, overrides, findings)[A].endswith(because)


def test_fail_open_is_of_one_family() -> None:
    six = {"address": "2001:db8::5", "port": 80}
    listen = ["192.0.2.10:80", "[2001:db8::10]:80"]
    declared = config(backend(A), six, listen=listen, health={"type": "tcp", "fail_open": True})
    findings = {place("2001:db8::5"): DOWN}
    assert stands(declared, {}, findings) == {A: "active, declared", "2001:db8::5": "active, fail_open"}


def test_health_of_a_service_without_checks_says_nothing() -> None:
    assert serving(config(backend(A), backend(B), health=None), {}, {place(A): DOWN}) == [A, B]


def two() -> Config:
    """The same backend in two services, in the second one at the port that the client asks for."""
    web = {"name": "web", "listen": "192.0.2.10:80", "health": {"type": "tcp"}, "backends": [backend(A), backend(B)]}
    api = {"name": "api", "listen": "192.0.2.11:80", "health": {"type": "tcp"}}
    return parse_config([web, {**api, "backends": [{"address": A}, {"address": A, "port": 8080, "name": "other"}]}])


@pytest.mark.parametrize(
    ("overrides", "findings", "web", "api"),
    [
        ({place(A): DRAINED}, {}, [B], ["", "8080"]),
        ({}, {place(A): DOWN}, [B], ["", "8080"]),
        ({place(A, "api", None): DRAINED}, {}, [A, B], ["8080"]),
        ({place(A, "api", 8080): DRAINED}, {}, [A, B], [""]),
        ({place(A, "api", 80): DRAINED}, {}, [A, B], ["", "8080"]),
        ({place(A, None, None): DRAINED}, {}, [B], []),
        ({place(A, None, 80): DRAINED}, {}, [B], ["8080"]),
        ({place(A, None, 8080): DRAINED}, {}, [A, B], [""]),
        ({place(A, None, None): DRAINED, place(A): ACTIVE}, {}, [A, B], []),
        ({place(A, None, None): DRAINED, place(A, None, 80): ACTIVE}, {}, [A, B], [""]),
        ({place(C, None, None): DRAINED, place(C): DRAINED, place(A, "other"): DRAINED}, {}, [A, B], ["", "8080"]),
    ],
    ids=str,
)
def test_a_backend_of_several_services(overrides: Any, findings: Any, web: list[str], api: list[str]) -> None:
    """It is one in each of them. What is said of all is excepted by what is said of one."""
    first, second = effective(two(), overrides, findings).services
    assert [item.address for item in first.serving("ip")] == web
    assert [str(item.port or "") for item in second.serving("ip")] == api


def test_with_nothing_said_it_is_the_declaration_itself() -> None:
    declared = two()
    assert effective(declared, {}, {}) is declared
    assert list(deviations(declared, {}, {})) == []
    touched = effective(declared, {place(A): DRAINED}, {})
    assert touched.services[1] is declared.services[1]


@pytest.mark.parametrize("method", ["source_hash", "flow_hash"])
@pytest.mark.parametrize(
    ("overrides", "findings"),
    [({place(A): DRAINED}, {}), ({place(A): Override(weight=0)}, {}), ({}, {place(A): DOWN}), ({}, {place(A): DRAIN})],
    ids=str,
)
def test_who_is_out_leaves_its_slots_and_no_other_client_moves(method: str, overrides: Any, findings: Any) -> None:
    declared = config(backend(A), backend(B, weight=2), backend(C), method=method)
    before = slots(declared.services[0], "ip")
    after = slots(effective(declared, overrides, findings).services[0], "ip")
    assert len(before) == len(after)
    assert A not in {item.address for item in after}
    assert [a.address for a, b in zip(after, before, strict=True) if b.address != A] == [
        b.address for b in before if b.address != A
    ]


def test_a_weight_that_needs_too_many_slots_does_not_hold() -> None:
    """An override of one backend must not keep every later run from working."""
    many = [backend(f"10.0.{i // 250}.{i % 250 + 1}", weight=256) for i in range(2000)]
    declared = config(*many)
    overrides = {place("10.0.0.1"): Override("drained", 255), place("10.0.0.2"): Override(weight=128)}
    assert len(slots(effective(declared, dict(list(overrides.items())[1:]), {}).services[0], "ip")) == 3999
    found = effective_backends(declared.services[0], {**overrides, place("10.0.0.2"): Override(weight=255)}, {})
    assert [(item.effective.state, item.effective.weight, item.unweighted) for item in found[:3]] == [
        ("drained", 256, True),
        ("active", 256, True),
        ("active", 256, False),
    ]


ANY = st.sampled_from([None, *(Override(s, w) for s in (None, "active", "drained", "disabled") for w in (None, 0, 3))])


@given(st.lists(st.tuples(ANY, st.sampled_from([None, UP, DRAIN, DOWN])), min_size=3, max_size=3))
def test_health_only_takes_out(said: list[tuple[Any, Any]]) -> None:
    declared = config(backend(A), backend(B, state="drained"), backend(C, weight=4))
    keys = [place(address) for address in (A, B, C)]
    overrides = {key: item for key, (item, _found) in zip(keys, said, strict=True) if item is not None}
    findings = {key: item for key, (_item, item) in zip(keys, said, strict=True) if item is not None}
    assert set(serving(declared, overrides, findings)) <= set(serving(declared, overrides))


@pytest.mark.parametrize(
    ("overrides", "findings", "words"),
    [
        ({}, {}, ""),
        ({place(A): Override("drained")}, {}, "override"),
        ({place(A): Override("drained", None, "2026-11-26T01:00:00Z", "kernel update")}, {}, None),
        ({}, {place(A): Finding("down", "2026-11-26T01:00:00Z", "connect: refused")}, None),
        ({}, {place(A): Finding("drain")}, "asks for no new connections"),
    ],
    ids=str,
)
def test_the_reason_in_words(overrides: Any, findings: Any, words: str | None) -> None:
    (service,) = config(backend(A)).services
    found = effective_backends(service, overrides, findings)[0].why()
    if words is None:
        words = "override since 2026-11-26T01:00:00Z: kernel update"
        words = words if overrides else "down since 2026-11-26T01:00:00Z: connect: refused"
    assert found == words


def test_a_service_is_told_by_its_own_name() -> None:
    named: list[Service] = [service for service, _found in deviations(two(), {place(A, "api", None): DRAINED}, {})]
    assert [service.name for service in named] == ["api"]


@pytest.mark.parametrize(
    ("share", "weights", "dealt"),
    [
        (1.0, (1, 1), (1, 1)),
        (0.5, (1, 1), (10, 20)),
        (0.1, (1, 1), (2, 20)),
        (0.0, (1, 3), (1, 60)),
        (0.75, (2, 2), (30, 40)),
    ],
)
def test_a_share_of_the_weight(share: float, weights: tuple[int, int], dealt: tuple[int, int]) -> None:
    """Of one that has just come back, or that asks for less."""
    declared = config(backend(A, weight=weights[0]), backend(B, weight=weights[1]))
    finding = Finding("up", share=share)
    (service,) = effective(declared, {}, {place(A): finding}).services
    assert tuple(dealt_weights(service.backends)) == dealt
    counts = Counter(item.address for item in slots(service, "ip"))
    assert counts[A] * dealt[1] == counts[B] * dealt[0]
    first = effective_backends(declared.services[0], {}, {place(A): finding})[0]
    assert first.why() == ("" if share == 1 else f"gets {100 * share:.0f} % of its weight")


def test_a_share_that_needs_too_many_slots_is_left_out() -> None:
    declared = config(
        backend(A, weight=255), backend(B, weight=256), *(backend(f"10.1.0.{i}", weight=256) for i in range(1, 200))
    )
    (service,) = effective(declared, {}, {place(A): Finding("up", share=0.5)}).services
    assert service == declared.services[0]


def test_one_that_starts_slowly_is_not_one_that_is_down() -> None:
    declared = config(backend(A), health={"type": "tcp", "fail_open": True})
    found = effective_backends(declared.services[0], {}, {place(A): Finding("up", share=0.5)})
    assert [item.because for item in found] == ["health"]
