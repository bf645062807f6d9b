# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backend is drained for some time, as the module `backend` does it: what its connections see, and who may go."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from _natlb.errors import ConfigError, HostError
from kernel_lab import drive, server, traffic
from kernel_lab.balancer import Balancer, service, webs
from kernel_lab.topology import NAMES, PORTS, VIP, WEB
from test_running import dark

OTHER = service("other", listen=f"{VIP}:8080")
SERVICES = [service(), OTHER]
WITHOUT = {name: 2 for name in NAMES if name != "web2"}


def test_it_gets_no_new_connections_until_it_is_brought_back(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    done = balancer.backend("web2", "drained", reason="kernel update")
    assert done["changed"]
    assert (done["services"], done["active_connections"]) == (["web", "other"], 0)
    assert f"+{WEB['web2']} of web: drained (kernel update)" in done["diff"]["prepared"].splitlines()
    assert balancer.tally(count=6) == WITHOUT
    assert balancer.tally(f"{VIP}:8080", count=6) == WITHOUT
    again = balancer.backend("web2", "drained", reason="kernel  update")
    assert (again["changed"], again["diff"]["prepared"]) == (False, "")
    assert not balancer.apply(SERVICES).changed, "a run leaves it"
    assert not balancer.info()["drift"]
    assert balancer.backend("web2", "active")["changed"]
    assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)
    assert not balancer.backend("web2", "active")["changed"]
    assert not (balancer.etc / "overrides.json").exists()


def test_each_reason_is_taken_back_by_itself(balancer: Balancer) -> None:
    """Automation drains and restores for its own reason. What an operator drains stays out, in whatever order."""
    balancer.apply([service()])
    alert = {"reason": "alert BackendSlow"}
    only = {"only_reason": "alert BackendSlow"}
    for first, second in ((alert, {}), ({}, alert), (alert, {"reason": "new kernel"})):
        for reason in (first, second):
            assert balancer.backend("web2", "drained", **reason)["changed"]
            assert not balancer.backend("web2", "drained", **reason)["changed"]
        restored = balancer.backend("web2", "active", **only)
        assert restored["changed"]
        assert [line.partition(": ")[2].split()[0] for line in restored["overrides"]] == ["drained"]
        assert balancer.tally(count=6) == WITHOUT
        assert not balancer.backend("web2", "active", **only)["changed"], "nothing is left of that reason"
        assert not balancer.apply([service()]).changed, "a run leaves it"
        assert balancer.backend("web2", "active")["overrides"] == []
        assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)
    balancer.backend("web2", "drained", **alert)
    assert balancer.backend("web2", "active", **only)["overrides"] == []
    assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)
    assert not (balancer.etc / "overrides.json").exists()


def test_a_second_reason_takes_nobody_else_out(balancer: Balancer) -> None:
    balancer.apply([service(backends=webs("web1", "web2"))])
    balancer.backend("web2", "drained", reason="alert BackendSlow")
    assert balancer.backend("web2", "drained", min_active=2)["changed"], "it is out already"
    with pytest.raises(HostError, match="min_active is 1"):
        balancer.backend("web1", "drained")


def test_restored_where_it_was_drained(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    balancer.backend("web2", "drained", service="other")
    restored = balancer.backend("web2", "active")
    assert (restored["services"], restored["changed_services"]) == (["web", "other"], ["other"])


def test_of_one_service_alone_and_by_address(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    assert balancer.backend(WEB["web2"], "drained", service="other")["services"] == ["other"]
    assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)
    assert balancer.tally(f"{VIP}:8080", count=6) == WITHOUT


def test_a_check_changes_nothing(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    done = balancer.backend("web2", "drained", check=True, wait=True)
    assert done["changed"]
    assert "+" in done["diff"]["prepared"]
    assert balancer.tally(count=8) == dict.fromkeys(NAMES, 2)
    assert not (balancer.etc / "overrides.json").exists()


def test_a_weight_and_a_run_that_declares_another(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    balancer.backend("web2", weight=5)
    assert balancer.tally(count=8)["web2"] == 5
    declared = [service(backends=[{**item, "weight": 3} if item["name"] == "web2" else item for item in webs()]), OTHER]
    balancer.apply(declared)
    assert balancer.tally(count=6)["web2"] == 3
    overrides = json.loads((balancer.etc / "overrides.json").read_text())["overrides"]
    assert [item["service"] for item in overrides] == ["other"]


def test_it_waits_until_its_connections_are_gone(balancer: Balancer) -> None:
    balancer.apply([service(backends=webs("web1", "web2"))])
    held = balancer.hold(count=2)
    (handle,) = [handle for handle, answer in held if answer.name == "web2"]
    options = {"wait": True, "wait_timeout": 60}
    waiting = balancer.host.begin(drive.backend, balancer._root, balancer.variant or None, "web2", "drained", options)
    while not (balancer.etc / "overrides.json").exists():
        time.sleep(0.01)
    assert balancer.talk(handle).name == "web2", "an existing connection goes on"
    assert not waiting.done()
    balancer.client.call(traffic.release)
    done = waiting.result(timeout=30)
    assert (done["active_connections"], done["closed"]) == (0, 0)
    assert done["waited"] < 30


def test_ten_rounds_of_each_cost_no_attempt(balancer: Balancer) -> None:
    balancer.apply([service()])
    pending = balancer.client.begin(traffic.attempts, f"{VIP}:80", 2000, 200.0, timeout_s=20.0)
    for _round in range(10):
        for name in NAMES:
            assert balancer.backend(name, "drained", wait=True, wait_timeout=20)["active_connections"] == 0
            assert balancer.backend(name, "active")["changed"]
    found = [traffic.Attempt(*item) for item in pending.result(timeout=120)]
    failed = [item for item in found if item.answer.error]
    longest = max(item.waited_s for item in found)
    print(f"{balancer.engine} {balancer.variant}: {len(failed)} of {len(found)} failed, longest {longest:.2f} s")
    assert not failed


@pytest.mark.parametrize("close", [False, True])
def test_the_deadline_is_hard(balancer: Balancer, close: bool) -> None:
    balancer.apply([service(backends=webs("web1", "web2"))])
    held = balancer.hold(count=2)
    (handle,) = [handle for handle, answer in held if answer.name == "web2"]
    done = balancer.backend("web2", "drained", wait=True, wait_timeout=1, close_connections=close)
    assert 1 <= done["waited"] < 5
    assert (done["active_connections"], done["closed"]) == ((0, 1) if close else (1, 0))
    answer = balancer.talk(handle)
    assert (answer.name == "web2") is not close, "its next packet is answered with a reset"


def test_two_backends_at_one_address_behind_a_range(balancer: Balancer) -> None:
    two = [{"name": f"of {port}", "address": WEB["web1"], "port": port} for port in (80, 8080)]
    balancer.apply([service(listen=f"{VIP}:9000-9003", backends=[*two, *webs("web2", port=80)])])
    held = balancer.hold(f"{VIP}:9001", count=3)
    mine = [handle for handle, answer in held if answer.name == "web1"]
    waits = {"wait": True, "wait_timeout": 1}
    assert balancer.backend(WEB["web1"], "drained", **waits)["active_connections"] == len(mine) == 2
    assert balancer.backend(WEB["web1"], "drained", **waits, close_connections=True)["closed"] == 2
    assert not [handle for handle in mine if not balancer.talk(handle).error]


def test_a_neighbour_with_a_port_of_its_own_stays(balancer: Balancer) -> None:
    """It is at the address of one whose ports follow those that clients ask for."""
    two = [{"name": f"of {port}", "address": WEB["web1"], "port": port} for port in ("+1", 9000)]
    balancer.apply([service(listen=f"{VIP}:9000-9002", backends=two)])
    held = [handle for handle, _answer in balancer.hold(f"{VIP}:9000", count=2)]
    done = balancer.backend("of +1", "drained", wait=True, wait_timeout=1, close_connections=True)
    assert (done["active_connections"], done["closed"]) == (0, 1)
    assert sorted(bool(balancer.talk(handle).error) for handle in held) == [False, True]


def test_waiting_alone_orders_nothing(balancer: Balancer) -> None:
    balancer.apply([service(backends=webs("web1", "web2"))])
    alone = {"wait": True, "wait_timeout": 1, "wait_only": True}
    with pytest.raises(HostError, match=r"web2 of web: is in rotation again.*\(drain it again\)"):
        balancer.backend("web2", "drained", **alone)
    assert balancer.tally(count=2) == {"web1": 1, "web2": 1}
    balancer.backend("web2", "drained", reason="kernel update")
    held = balancer.hold(count=1)
    done = balancer.backend("web1", "disabled", min_active=0, **alone | {"wait_only": False})
    assert (done["active_connections"], done["changed"]) == (len(held), True)
    again = balancer.backend("web1", "drained", **alone)
    assert (again["active_connections"], again["changed"], again["overrides"]) == (1, False, done["overrides"])


@pytest.mark.parametrize("ends_first", ["client", "server"])
def test_a_client_that_has_sent_its_last_still_gets_its_answer(balancer: Balancer, ends_first: str) -> None:
    """While one to whom the server has sent its last gets nothing more."""
    balancer.apply([service(backends=webs("web1", "web2"))])
    held = balancer.hold(count=2)
    (handle,) = [handle for handle, answer in held if answer.name == "web2"]
    web2 = balancer.lab.backends["web2"]
    if ends_first == "server":
        web2.call(server.stop)
        await_state(balancer, "CLOSE_WAIT")
        assert balancer.backend("web2", "drained", wait=True, wait_timeout=60)["waited"] < 1
        web2.call(server.start, "web2", PORTS)
        return
    os.kill(web2.pid, signal.SIGSTOP)
    # Not before all of its threads have stopped.
    os.waitid(os.P_PID, web2.pid, os.WSTOPPED)
    try:
        balancer.client.call(traffic.finish, handle)
        await_state(balancer, "CLOSE_WAIT")
        assert balancer.backend("web2", "drained", wait=True, wait_timeout=1)["active_connections"] == 1
    finally:
        os.kill(web2.pid, signal.SIGCONT)
    assert traffic.Answer(*balancer.client.call(traffic.hear, handle)).name == "web2"
    done = balancer.backend("web2", "drained", wait=True, wait_timeout=60)
    assert done["active_connections"] == 0
    assert done["waited"] < 30


def await_state(balancer: Balancer, state: str) -> None:
    """Until connection tracking has a connection of web2 in this state."""
    words = ["conntrack", "-L", "-p", "tcp", "--state", state, "--reply-src", WEB["web2"]]
    deadline = time.monotonic() + 30
    while not balancer.host.run(*words):
        assert time.monotonic() < deadline, balancer.host.run("conntrack", "-L")
        time.sleep(0.01)


def test_attempts_that_it_never_answered_go_elsewhere(balancer: Balancer) -> None:
    """It may be stopped next. Nor does a dead backend make anybody wait for long."""
    balancer.apply([service(backends=webs("web1", "web2"))])
    balancer.tally(count=2)
    with dark(balancer, "web2"):
        pending = balancer.client.begin(traffic.attempts, f"{VIP}:80", 20, 400.0, timeout_s=20.0)
        await_state(balancer, "SYN_SENT")
        done = balancer.backend("web2", "drained", wait=True, wait_timeout=60)
        found = [traffic.Attempt(*item) for item in pending.result(timeout=60)]
    assert (done["active_connections"], done["closed"]) == (0, 0)
    assert done["waited"] < 10
    assert {item.answer.who for item in found} == {"web1"}
    assert not [item for item in found if item.answer.error]
    longest = max(item.waited_s for item in found)
    print(f"{balancer.engine} {balancer.variant}: drained in {done['waited']} s, longest wait {longest:.2f} s")


def test_of_two_that_leave_at_once_the_last_ones_stay(balancer: Balancer) -> None:
    """As Ansible drains the hosts of one batch."""
    balancer.apply([service(backends=webs("web1", "web2", "web3"))])
    arguments = (balancer._root, balancer.variant or None, ["web1", "web2"])
    told = balancer.host.call(drive.drain_at_once, *arguments, min_active=2)
    assert sorted(map(bool, told)) == [False, True]
    assert "1 of its backends would serve without" in "".join(told)
    assert len(balancer.tally(count=4)) == 2


def test_the_last_ones_stay(balancer: Balancer) -> None:
    balancer.apply([service(backends=webs("web1", "web2", "web3"))])
    balancer.backend("web1", "drained", min_active=2)
    with pytest.raises(HostError, match="service web: 1 of its backends would serve without web2, and min_active is 2"):
        balancer.backend("web2", "drained", min_active=2)
    balancer.backend("web2", "drained")
    with pytest.raises(HostError, match="service web: 0 of its backends would serve without web3"):
        balancer.backend("web3", "drained")
    assert balancer.tally(count=2) == {"web3": 2}
    assert not balancer.backend("web2", "drained", min_active=2)["changed"], "what is so already is no failure"


def test_who_is_not_there_is_named(balancer: Balancer) -> None:
    balancer.apply(SERVICES)
    with pytest.raises(HostError, match="backend web9: every service has none of this name or address"):
        balancer.backend("web9", "drained")
    with pytest.raises(HostError, match="service wbe: not declared on this host"):
        balancer.backend("web2", "drained", service="wbe")
    done = balancer.backend("web9", "drained", wait=True, allow_missing=True)
    assert (done["changed"], done["services"], done["active_connections"], done["waited"]) == (False, [], 0, 0)
    assert balancer.backend("web2", "drained", service="wbe", allow_missing=True)["services"] == []


def test_one_that_is_not_declared_any_more_is_gone(balancer: Balancer) -> None:
    balancer.apply([service()])
    balancer.backend("web2", "drained")
    balancer.apply([service(backends=webs("web1", "web3"))])
    assert not balancer.backend("web2", "drained", wait=True, allow_missing=True)["changed"]
    assert balancer.tally(count=4) == {"web1": 2, "web3": 2}


@pytest.mark.parametrize("options", [{"wait_timeout": -1}, {"min_active": -1}])
def test_numbers_that_are_none(balancer: Balancer, options: dict[str, int]) -> None:
    balancer.apply([service()])
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: -1 is not a number of"):
        balancer.backend("web2", "drained", **options)
