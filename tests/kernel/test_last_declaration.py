# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan that builds on what the last run has made of its declaration is, in all that it says and does, the one that
begins anew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_lab import drive, looking
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import VIP
from strategies import Declared, services
from test_effective import down, drained, health, override
from test_rollback import undone
from test_round_trip import bounded
from test_unchanged import DECLARED

STATES = st.sampled_from(("active", "drained", "disabled"))
WEIGHTS = st.sampled_from((1, 2, 3, 7))


def plans(balancer: Balancer, declared: Any, egress: Any = None, **options: Any) -> tuple[list[str], bool, int]:
    options.setdefault("engine", balancer.engine)
    return tuple(
        balancer.host.call(looking.two_plans, balancer._root, declared, egress, balancer.variant or None, **options)
    )


def kept(balancer: Balancer) -> Path:
    return balancer.etc.parent / "run" / "declared.json"


def with_state(declared: Any, name: str, state: str, backend: int = 0) -> Any:
    """The same, with another state of one backend."""
    found = json.loads(json.dumps(declared))
    next(item for item in found if item["name"] == name)["backends"][backend]["state"] = state
    return found


@st.composite
def changed(draw: st.DrawFn, declared: list[Declared]) -> list[Declared]:
    """Mostly other states and weights; sometimes another order, a service less, or another key."""
    found: list[Declared] = json.loads(json.dumps(declared))
    for item in found:
        for backend in item["backends"]:
            if draw(st.integers(0, 3)) == 0:
                backend["state"] = draw(STATES)
            if draw(st.integers(0, 5)) == 0:
                backend["weight"] = draw(WEIGHTS)
    match draw(st.integers(0, 9)):
        case 0:
            found.reverse()
        case 1:
            found = found[1:]
        case 2 if found:
            found[0]["when_empty"] = "drop"
        case 3 if found:
            found[-1]["log"] = True
    return found


@bounded
@given(data=st.data())
def test_any_change_of_any_declaration(balancer: Balancer, data: st.DataObject) -> None:
    declared = data.draw(services(limited=balancer.nftables))
    balancer.apply(declared)
    for _turn in range(2):
        declared = data.draw(changed(declared))
        differing, _from_the_last, _known = plans(balancer, declared)
        assert differing == []
        told = balancer.apply(declared, check=True)
        done = balancer.apply(declared)
        assert (told.changed, told.diff, told.warnings) == (done.changed, done.diff, done.warnings)
        again = balancer.apply([*declared], check=True)
        assert (again.changed, again.diff) == (False, "")


def test_only_what_differs_is_read_and_rendered(balancer: Balancer) -> None:
    before = DECLARED
    balancer.apply(before)
    for state in ("drained", "active", "disabled"):
        declared = with_state(DECLARED, "web", state)
        assert plans(balancer, declared) == ([], True, len(DECLARED) - 1)
        balancer.apply(declared)
        assert plans(balancer, declared) == ([], True, len(DECLARED))
    # The declaration is the same, whatever a run is asked for beside it.
    assert plans(balancer, declared, persist=False) == ([], True, len(DECLARED))
    assert plans(balancer, declared, transit="accept") == ([], False, len(DECLARED))


#: What a run starts that drains one backend: its rules are loaded into a scratch namespace (unshare) and then into this
#: one (sh). Of nftables nothing is listed, since the kernel numbers commits; links are read once, and looked at again
#: when what was seen is kept.
PROGRAMS = {
    "nftables": {"nft": 1, "unshare": 1, "ip": 2, "sh": 1},
    "iptables-nft": {
        "iptables-nft-save": 2,
        "ip6tables-nft-save": 1,
        "iptables-nft": 2,
        "unshare": 1,
        "ip": 2,
        "sh": 1,
    },
}


@pytest.mark.engines(*PROGRAMS)
def test_no_program_is_run_that_a_drain_does_not_need(balancer: Balancer) -> None:
    declared = [service(), service("other", listen=f"{VIP}:81")]
    balancer.apply(declared)
    balancer.apply(declared)
    options = {"engine": balancer.engine, "iptables_variant": balancer.variant or None}
    drained_one = with_state(declared, "web", "drained")
    _outcome, started = balancer.host.call(looking.balance, balancer._root, drained_one, **options)
    assert Counter(started) == PROGRAMS["-".join(filter(None, (balancer.engine, balancer.variant)))]


def test_without_a_change_of_state_alone_all_is_rendered(balancer: Balancer) -> None:
    balancer.apply(DECLARED)
    logged = [*DECLARED[:1], {**DECLARED[1], "log": True}, *DECLARED[2:]]
    more = [*DECLARED, service("new", listen=f"{VIP}:90")]
    for declared, known in ((logged, 2), (more, 3), (DECLARED[1:], 2), (DECLARED[::-1], 3)):
        assert plans(balancer, declared) == ([], False, known)
    assert plans(balancer, DECLARED, [{"source": "10.0.0.0/24"}]) == ([], False, 3)
    assert plans(balancer, DECLARED, mark_mask="0xff") == ([], False, 3)


def test_rules_with_overrides_or_findings_are_rendered(balancer: Balancer) -> None:
    """Before and after: neither are those of the declaration."""
    declared = [*DECLARED, service("checked", listen=f"{VIP}:8080", health={"type": "tcp"})]
    balancer.apply(declared)
    now = with_state(declared, "chance", "drained")
    assert plans(balancer, now) == ([], True, 3)
    override(balancer, drained())
    assert plans(balancer, now) == ([], False, 3)
    balancer.apply(declared)
    assert plans(balancer, now) == ([], False, 3)
    override(balancer)
    assert plans(balancer, now) == ([], False, 3)
    balancer.apply(declared)
    assert plans(balancer, now) == ([], True, 3)
    health(balancer, down())
    assert plans(balancer, now) == ([], False, 3)
    health(balancer, {**down(), "state": "up"})
    assert plans(balancer, now) == ([], True, 3)


def test_what_cannot_be_relied_on_is_made_anew(balancer: Balancer) -> None:
    declared = with_state(DECLARED, "web", "drained")
    folder = kept(balancer).parent

    def is_anew(known: int, path: Path, text: str | None) -> None:
        balancer.apply(DECLARED)
        former = path.read_text()
        assert plans(balancer, declared) == ([], True, 2)
        path.unlink()
        if text is not None:
            path.write_text(text)
        assert plans(balancer, declared) == ([], False, known)
        path.unlink(missing_ok=True)
        path.write_text(former)
        assert plans(balancer, declared) == ([], True, 2)

    balancer.apply(DECLARED)
    own = json.loads(kept(balancer).read_text())
    for text in (None, "", "[]", "{}", "nonsense", json.dumps({**own, "code": "another"})):
        is_anew(0, kept(balancer), text)
    for part in ({"services": None}, {"services": own["services"][:2]}, {"state": "another"}):
        balancer.apply(DECLARED)
        kept(balancer).write_text(json.dumps({**own, **part}))
        assert plans(balancer, declared)[:2] == ([], False)
    # What is built on: the rules as they were rendered, and the kept request.
    kept(balancer).write_text(json.dumps(own))
    for text in (None, "{}", (folder / "normal.json").read_text().replace("10.0.0.", "10.0.9.")):
        is_anew(2, folder / "normal.json", text)
    state = balancer.etc / "current" / "state.json"
    for text in (None, "{}", state.read_text().replace('"weight": 1', '"weight": 2')):
        is_anew(0, state, text)


def test_an_address_that_nobody_has_any_more_is_seen(balancer: Balancer) -> None:
    """What the rules depend on beside the declaration."""
    services = [*DECLARED, service("elsewhere", listen="203.0.113.5:80")]
    balancer.apply(services)
    declared = with_state(services, "web", "drained")
    assert plans(balancer, declared) == ([], True, 3)
    balancer.host.run("ip", "route", "add", "default", "dev", "front")
    assert plans(balancer, declared) == ([], False, 3)


def test_rules_of_somebody_else_make_no_difference(balancer: Balancer) -> None:
    """What is live is compared as ever."""
    balancer.apply(DECLARED)
    declared = with_state(DECLARED, "web", "drained")
    if balancer.nftables:
        balancer.host.run("nft", "delete element ip natlb slot_tcp { 192.0.2.10 . 80 . 0 }")
    else:
        balancer.host.run(f"iptables-{balancer.variant}", "-t", "nat", "-F", "NATLB.web.tcp")
    assert plans(balancer, declared) == ([], True, 2)
    balancer.apply(declared)
    assert not balancer.apply(declared, check=True).changed


def test_a_change_that_waits_is_nothing_to_build_on_until_it_is_confirmed(balancer: Balancer) -> None:
    balancer.apply(DECLARED)
    drained_one, drained_two = with_state(DECLARED, "web", "drained"), with_state(DECLARED, "web", "drained", 1)
    outcome = balancer.apply(drained_one, rollback_after=60)
    # What is kept is still the former declaration, and nobody knows yet which one lasts.
    assert plans(balancer, drained_two) == ([], False, 0)
    balancer.host.call(drive.confirm, balancer._root, outcome.token)
    assert plans(balancer, drained_two) == ([], True, 2)
    outcome = balancer.apply(drained_two, rollback_after=1)
    undone(balancer)
    assert plans(balancer, drained_one) == ([], False, 0)
    assert balancer.apply(drained_one, check=True).changed is False
    balancer.apply(drained_one)
    assert balancer.apply(drained_two).changed
