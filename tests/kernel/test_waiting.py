# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""While a change waits for its confirmation, backends die, come back and are drained. It holds at once, and whether the
change is confirmed or goes back."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable
from typing import Any

import pytest
from kernel_lab import drive, program, staying
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import NAMES, VIP, WEB
from test_agent import FAST, crashed
from test_agent import running as agent_running
from test_rollback import complaints, confirm, undone, waiting
from test_running import ALL, CHECKED, NUMBERED, OTHER, WITHOUT, Staying, web2

LONG_S = 300
ELSEWHERE = f"{VIP}:8080"


def pend(balancer: Balancer, *services: Any, **options: Any) -> str:
    """A change that waits. Its token."""
    outcome = balancer.apply(services, rollback_after=LONG_S, **options)
    assert outcome.token
    return str(outcome.token)


def go_back(balancer: Balancer) -> None:
    """What happens when nobody has confirmed in time."""
    (script,) = balancer.etc.parent.glob("run/rollback.*/undo")
    balancer.host.run("sh", str(script), "0")
    undone(balancer)
    assert complaints(balancer) == []


def settle(balancer: Balancer, token: str, confirmed: bool) -> None:
    if confirmed:
        confirm(balancer, token)
    else:
        go_back(balancer)
    assert not waiting(balancer)


def boots(balancer: Balancer, name: str = "health") -> set[tuple[str, str]]:
    """(address, state) that the next boot would know."""
    path = balancer.etc / "current" / "effective.json"
    kept = json.loads(path.read_text())[name] if path.exists() else []
    return {(item["address"], item["state"]) for item in kept}


def boots_to(balancer: Balancer, name: str) -> bool:
    """Whether the rules that the next boot loads lead to this backend."""
    text = "".join(path.read_text() for path in sorted(balancer.etc.glob("current/ruleset*")))
    assert re.search(rf"(: |--to-destination ){WEB['web1']}\b", text)
    return bool(re.search(rf"(: |--to-destination ){WEB[name]}\b", text))


def nothing_is_left_to_do(balancer: Balancer, services: Iterable[Any], **options: Any) -> None:
    """What is live and what boots is what a run would make of it."""
    again = balancer.apply(list(services), **options)
    assert (again.changed, again.transaction) == (False, "none"), again.diff


BOTH_ENDS = pytest.mark.parametrize("confirmed", [True, False], ids=["confirmed", "goes back"])


@BOTH_ENDS
def test_a_backend_dies(balancer: Balancer, confirmed: bool) -> None:
    here = Staying(balancer, CHECKED)
    token = pend(balancer, CHECKED, OTHER)
    here.find(web2("down"), web2("down", "other"))
    assert waiting(balancer)
    assert balancer.tally(count=6) == WITHOUT
    assert "web2" not in balancer.tally(ELSEWHERE, 8)
    assert boots(balancer) == {(WEB["web2"], "down")}, "of the former declaration, which a reboot would come up with"
    assert not boots_to(balancer, "web2")
    assert [item["name"] for item in json.loads((balancer.etc / "state.json").read_text())["services"]] == ["web"]
    settle(balancer, token, confirmed)
    assert balancer.tally(count=6) == WITHOUT, "nobody had to put it right"
    assert boots(balancer) == {(WEB["web2"], "down")}
    assert not boots_to(balancer, "web2")
    nothing_is_left_to_do(balancer, [CHECKED, OTHER] if confirmed else [CHECKED])


@BOTH_ENDS
def test_a_backend_comes_back(balancer: Balancer, confirmed: bool) -> None:
    """Also one that dies and comes back while the change waits."""
    here = Staying(balancer, CHECKED)
    here.find(web2("down"))
    here.restore()
    token = pend(balancer, CHECKED, OTHER)
    assert balancer.tally(count=6) == WITHOUT
    here.find(("web", WEB["web3"], "down"))
    here.find(web2("up"))
    here.find(("web", WEB["web3"], "up"))
    assert balancer.tally(count=8) == ALL
    settle(balancer, token, confirmed)
    assert balancer.tally(count=8) == ALL
    assert boots(balancer) == set()
    nothing_is_left_to_do(balancer, [CHECKED, OTHER] if confirmed else [CHECKED])


@BOTH_ENDS
def test_all_die_and_one_comes_back(balancer: Balancer, confirmed: bool) -> None:
    """Refusals are rules of their own, which the way back has to know."""
    here = Staying(balancer, CHECKED)
    token = pend(balancer, CHECKED, OTHER)
    here.find(*(("web", address, "down") for address in WEB.values()))
    assert balancer.tally(count=2) == {"ConnectionRefusedError": 2}
    settle(balancer, token, confirmed)
    assert balancer.tally(count=2) == {"ConnectionRefusedError": 2}
    nothing_is_left_to_do(balancer, [CHECKED, OTHER] if confirmed else [CHECKED])
    here.find(("web", WEB["web3"], "up"))
    assert balancer.tally(count=2) == {"web3": 2}


@BOTH_ENDS
def test_a_backend_that_the_change_brings(balancer: Balancer, confirmed: bool) -> None:
    fewer = service(health={"type": "tcp"}, backends=webs("web1", "web3", "web4"))
    here = Staying(balancer, fewer)
    token = pend(balancer, CHECKED)
    here.find(web2("down"))
    assert balancer.tally(count=6) == WITHOUT
    settle(balancer, token, confirmed)
    assert balancer.tally(count=6) == WITHOUT
    assert boots(balancer) == ({(WEB["web2"], "down")} if confirmed else set())
    nothing_is_left_to_do(balancer, [CHECKED if confirmed else fewer])


@BOTH_ENDS
def test_an_operator_drains(balancer: Balancer, confirmed: bool) -> None:
    """It acts at once, and is neither lost nor undone by what becomes of the change. No agent is needed."""
    former = service(backends=webs("web1", "web2", "web3"))
    changed = service(backends=[*webs("web1", "web3"), *webs("web2", weight=2), *webs("web4")])
    balancer.apply([former])
    token = pend(balancer, changed)
    for name in ("web2", "web4"):
        assert balancer.backend(name, "drained")["changed"]
    assert not balancer.backend("web2", "drained")["changed"]
    assert waiting(balancer)
    assert balancer.tally(count=4) == {"web1": 2, "web3": 2}
    settle(balancer, token, confirmed)
    assert balancer.tally(count=4) == {"web1": 2, "web3": 2}
    nothing_is_left_to_do(balancer, [changed if confirmed else former])
    balancer.backend("web2", "active")
    assert balancer.tally(count=4)["web2"] == (2 if confirmed else 1)


@BOTH_ENDS
def test_what_was_drained_before_is_taken_back(balancer: Balancer, confirmed: bool) -> None:
    balancer.apply([service()])
    balancer.backend("web2", "drained")
    token = pend(balancer, service(), OTHER)
    balancer.backend("web2", "active")
    assert balancer.tally(count=8) == ALL
    settle(balancer, token, confirmed)
    assert balancer.tally(count=8) == ALL
    nothing_is_left_to_do(balancer, [service(), OTHER] if confirmed else [service()])


@BOTH_ENDS
def test_in_the_sandbox_of_the_agent(balancer: Balancer, confirmed: bool) -> None:
    """The kernel can be asked about no rules before they are loaded."""
    drop = {"when_empty": "drop", "allow_from": ["192.0.2.0/24"]}
    former, changed = service(health={"type": "tcp"}, **drop), service(health={"type": "tcp"}, method="random", **drop)
    here = Staying(balancer, former)
    token = pend(balancer, changed, OTHER)
    here.find_in_the_sandbox(web2("down"), ("web", WEB["web3"], "down"))
    here.find_in_the_sandbox(web2("up"))
    settle(balancer, token, confirmed)
    assert set(balancer.tally(count=40)) == {"web1", "web2", "web4"}
    nothing_is_left_to_do(balancer, [changed, OTHER] if confirmed else [former])


def test_of_a_removal_that_waits(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED)
    pend(balancer, state="absent")
    here.find(web2("down"))
    go_back(balancer)
    assert balancer.tally(count=6) == WITHOUT
    nothing_is_left_to_do(balancer, [CHECKED])


def test_of_a_removal_that_is_confirmed(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED)
    token = pend(balancer, state="absent")
    here.find(web2("down"))
    confirm(balancer, token)
    assert balancer.host.call(drive.ours_left) == []


@BOTH_ENDS
def test_of_a_switch_of_the_engine(balancer: Balancer, confirmed: bool) -> None:
    other = "iptables" if balancer.nftables else "nftables"
    here = Staying(balancer, CHECKED)
    token = pend(balancer, CHECKED, engine=other)
    here.find(web2("down"))
    assert balancer.tally(count=6) == WITHOUT
    settle(balancer, token, confirmed)
    assert balancer.tally(count=6) == WITHOUT
    nothing_is_left_to_do(balancer, [CHECKED], engine=other if confirmed else balancer.engine)


@BOTH_ENDS
def test_without_a_place_that_survives_a_reboot(balancer: Balancer, confirmed: bool) -> None:
    here = Staying(balancer, CHECKED, persist=False)
    token = pend(balancer, CHECKED, OTHER, persist=False)
    here.find(web2("down"))
    balancer.backend("web1", "drained")
    assert balancer.tally(count=4) == {"web3": 2, "web4": 2}
    settle(balancer, token, confirmed)
    assert balancer.tally(count=4) == {"web3": 2, "web4": 2}
    here.restore()
    nothing_is_left_to_do(balancer, [CHECKED, OTHER] if confirmed else [CHECKED], persist=False)


@pytest.mark.engines(*NUMBERED)
def test_flushed_rules_are_back(balancer: Balancer) -> None:
    here = Staying(balancer, CHECKED)
    pend(balancer, CHECKED, OTHER)
    here.find(web2("down"))
    balancer.host.run("nft", "flush", "ruleset")
    here.restore()
    assert balancer.tally(count=6) == WITHOUT
    assert balancer.tally(ELSEWHERE, 1).total() == 1
    go_back(balancer)
    assert balancer.tally(count=6) == WITHOUT


def test_one_that_nobody_undid_is_undone(balancer: Balancer) -> None:
    """The script was killed. Whoever looks after the rules sees to it."""
    here = Staying(balancer, CHECKED)
    pend(balancer, CHECKED, OTHER)
    balancer.host.call(drive.put_off_the_undoing, balancer._root)
    here.find(web2("down"))
    assert not waiting(balancer)
    assert balancer.tally(count=6) == WITHOUT
    nothing_is_left_to_do(balancer, [CHECKED])


@BOTH_ENDS
def test_with_the_whole_agent(balancer: Balancer, confirmed: bool) -> None:
    """It is out in the usual time, also where the agent is dead by the time that the change is settled."""
    web, other = service(health=FAST), service("other", listen=ELSEWHERE, health=FAST)
    with agent_running(balancer, web) as here:
        token = pend(balancer, web, other)
        here.wait_for("2 services, 2 of them with health checks")
        with crashed(balancer, "web2"):
            here.wait_for("is down: connect")
            assert waiting(balancer)
            assert balancer.tally(count=6) == WITHOUT
            here.stop(signal.SIGKILL)
            settle(balancer, token, confirmed)
            assert balancer.tally(count=6) == WITHOUT
            here.start()
            here.wait_for("of them with health checks", 3)
            assert balancer.tally(count=6) == WITHOUT
        if confirmed:
            here.wait_for("web2 of other, web is up")
        else:
            here.wait_for("web2 of web is up", 2)
        assert balancer.tally(count=8) == ALL
        if confirmed:
            assert balancer.tally(ELSEWHERE, 8) == ALL
        assert [item["name"] for item in balancer.info()["services"]] == (["web", "other"] if confirmed else ["web"])


def test_the_agent_comes_up_while_a_change_waits(balancer: Balancer) -> None:
    web, other = service(health=FAST), service("other", listen=ELSEWHERE, health=FAST)
    with agent_running(balancer, web) as here:
        here.stop(signal.SIGKILL)
        pend(balancer, web, other)
        with crashed(balancer, "web2"):
            here.start()
            here.wait_for("web2 of other, web is down")
            assert balancer.tally(count=6) == WITHOUT
            assert "web2" not in balancer.tally(ELSEWHERE, 6)
            go_back(balancer)
            here.wait_for("1 services, 1 of them with health checks", 2)
            assert balancer.tally(count=6) == WITHOUT


def test_a_look_that_meets_a_change_of_health_sees_no_drift(balancer: Balancer) -> None:
    """Whichever half of it. Whoever verifies a deployment at that moment would let a good one go back."""
    here = Staying(balancer, service())
    token = pend(balancer, CHECKED)
    here.restore()
    for moment, state in (("files", "down"), ("before", "up"), ("under", "down")):
        asked = (balancer._root, balancer.variant or None, moment, web2(state))
        assert balancer.host.call(staying.drift_beside, *asked) is False, moment
    assert balancer.tally(count=6) == WITHOUT
    settle(balancer, token, confirmed=True)


@BOTH_ENDS
@pytest.mark.parametrize("left", ["web1 web3 web4", "web1 web2 web3 web4"], ids=["gone", "unchecked"])
def test_what_was_found_ends_with_the_checks(balancer: Balancer, confirmed: bool, left: str) -> None:
    """A later change that checks the backend again begins anew, and who reads the host meanwhile sees that."""
    here = Staying(balancer, CHECKED)
    here.find(web2("down"))
    here.restore()
    settle(balancer, pend(balancer, service(backends=webs(*left.split()))), confirmed)
    serving = NAMES if confirmed else list(WITHOUT)
    assert set(balancer.tally(count=8)) == set(left.split() if confirmed else serving)
    token = pend(balancer, CHECKED, OTHER)
    assert not balancer.info(pending=True)["drift"]
    settle(balancer, token, confirmed=True)
    assert not balancer.info()["drift"]
    assert set(balancer.tally(count=8)) == set(serving)


@pytest.mark.engines("nftables", "iptables-legacy")
def test_a_change_of_another_version_follows_by_its_own_program(balancer: Balancer) -> None:
    """The agent cannot read all of its declaration, and would take away what it cannot read."""
    web = service(health=FAST)
    with agent_running(balancer, web) as here:
        pend(balancer, web, OTHER, program=program.later)
        (path,) = balancer.etc.parent.glob("run/rollback.*/staged.json")
        path.write_text(path.read_text().replace(r"\"redispatch\"", r"\"of_the_future\": 1, \"redispatch\""))
        here.wait_for("a change by another version of natlb waits, and its program makes the rules follow")
        with crashed(balancer, "web2"):
            here.wait_for("web2 of web is down")
            assert balancer.tally(count=6) == WITHOUT
            here.stop(signal.SIGKILL)
            here.start()
            here.wait_for("its program makes the rules follow", 2)
            (former,) = balancer.tally(ELSEWHERE, 2)
            assert balancer.natlb("drain", former, "--service", "other")[0] == 0, "the command leaves it to that one"
            assert former not in balancer.tally(ELSEWHERE, 2)
            if balancer.nftables:
                flushed = balancer.etc.parent / "flush"
                flushed.touch()
                balancer.host.run("nft", "flush", "ruleset")
                while flushed.exists():
                    assert waiting(balancer)
                balancer.host.call(program.until, balancer._root, ["ready"], 0)
                assert balancer.tally(count=6) == WITHOUT, "and what somebody takes away behind its back comes back"
            go_back(balancer)
            here.wait_for("of them with health checks\n", 2)
            assert balancer.tally(count=6) == WITHOUT
        here.wait_for("web2 of web is up", 2)
        assert balancer.tally(count=8) == ALL
        assert not [line for line in here.said() if "trying again" in line]


@pytest.mark.engines("nftables")
def test_a_program_of_another_version_that_fails_is_told_of_once(balancer: Balancer) -> None:
    """And whoever asks for the state is told as well."""
    web = service(health=FAST)
    with agent_running(balancer, web) as here:
        pend(balancer, web, OTHER, program=program.broken)
        here.wait_for("it is broken; trying again")
        with crashed(balancer, "web2"):
            balancer.host.call(program.broken_again, balancer._root, 3)
            # One that is busy says nothing.
            while not any("cannot make the rules follow" in item for item in balancer.info()["warnings"]):
                assert waiting(balancer)
            go_back(balancer)
            here.wait_for("web2 of web is down")
        assert len([line for line in here.said() if "trying again" in line]) == 1
        assert "cannot make" not in " ".join(balancer.info()["warnings"])
