# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent, as the program that a run leaves on the host: what clients see while backends die and come back, and what
the operator reads."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from _natlb.cli import single_file
from _natlb.host import nf_tables
from kernel_lab import agent, server, traffic
from kernel_lab.balancer import Balancer, Mapping, service
from kernel_lab.topology import NAMES, PORTS, VIP, WEB
from test_running import dark

FAST = {"type": "tcp", "interval": "0.5s", "fast_interval": "0.1s", "timeout": "0.4s", "fall": 2, "rise": 2, "port": 80}
SLOW = {**FAST, "interval": "10s", "timeout": "1s", "fall": 3}
#: Attempts a second, as many as are made in all, and how long one may take.
RATE, COUNT, TIMEOUT_S = 200.0, 800, 20.0
#: How long a backend flaps. It comes back after 2, 4 and 8 successes, and 16 do not fit into the second that it is
#: there: four times down and three times up, and up at last. One commit takes it out, and two bring it back.
FLAPPING_S, FLAPPING_COMMITS = 20, 4 * 1 + 4 * 2


class Agent:
    """The agent on a balancer."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self.variant = balancer.variant or None

    def start(self) -> None:
        self.balancer.host.call(agent.start, self.balancer._root, self.variant)

    def stop(self, number: int = signal.SIGTERM) -> int:
        return int(self.balancer.host.call(agent.stop, self.balancer._root, number))

    def send(self, number: int) -> None:
        self.balancer.host.call(agent.send, self.balancer._root, number)

    def wait_for(self, words: str, times: int = 1) -> str:
        return str(self.balancer.host.call(agent.wait_for, self.balancer._root, words, times))

    def said(self) -> list[str]:
        return str(self.balancer.host.call(agent.said, self.balancer._root)).splitlines()

    def cost(self) -> Mapping:
        return dict(self.balancer.host.call(agent.cost, self.balancer._root))

    def health(self, name: str = "web2") -> str:
        (found,) = self.balancer.info("web")["services"]
        return next(str(item["health"]) for item in found["backends"] if item["name"] == name)


@contextlib.contextmanager
def running(balancer: Balancer, *services: Mapping, ready: str = "", **options: Any) -> Iterator[Agent]:
    balancer.apply(services, program=single_file.text, **options)
    found = Agent(balancer)
    found.start()
    try:
        found.wait_for(ready or "is up", 1 if ready else len(services[0]["backends"]))
        yield found
    finally:
        with contextlib.suppress(KeyError):
            found.stop()


@contextlib.contextmanager
def crashed(balancer: Balancer, *names: str) -> Iterator[None]:
    """The processes of these backends are gone meanwhile: their hosts refuse connections."""
    for name in names:
        balancer.lab.backends[name].call(server.crash)
    try:
        yield
    finally:
        for name in names:
            balancer.lab.backends[name].call(server.start, name, PORTS)


def attempts(balancer: Balancer, count: int = COUNT, target: str = f"{VIP}:80", rate: float = RATE) -> Any:
    return balancer.client.begin(traffic.attempts, target, count, rate, timeout_s=TIMEOUT_S)


def told(title: str, found: Sequence[Any]) -> str:
    failed = len(lost(found))
    return f"{title}: {failed} of {len(found)} failed, the longest waited {max(i.waited_s for i in found):.2f} s"


def lost(found: Sequence[traffic.Attempt]) -> list[traffic.Attempt]:
    """The attempts that failed. A connection that had been opened to a backend which then dies is none."""
    return [item for item in found if item.answer.error and not item.answer.opened]


def of(pending: Any) -> list[traffic.Attempt]:
    return [traffic.Attempt(*item) for item in pending.result(timeout=120)]


def test_no_attempt_fails_while_a_process_dies(balancer: Balancer) -> None:
    with running(balancer, service(health=FAST)) as here:
        pending = attempts(balancer)
        with crashed(balancer, "web2"):
            here.wait_for("web2 of web is down")
            found = of(pending)
            print(told(f"{balancer.engine} {balancer.variant}, a process dies", found))
            assert not lost(found)
            assert set(balancer.tally(count=6)) == {"web1", "web3", "web4"}
        here.wait_for("web2 of web is up", 2)
        assert set(balancer.tally(count=8)) == set(NAMES)
        (line,) = [line for line in here.said() if "is down" in line]
        assert line == f"web2 of web is down: connect to {WEB['web2']}:80: Connection refused, 2 of 2"


@pytest.mark.parametrize("rate", [50, 200])
def test_no_attempt_fails_while_a_host_goes_dark(balancer: Balancer, rate: int) -> None:
    """It is found by the clients that wait for it, long before its next check."""
    with running(balancer, service(health=SLOW)) as here:
        pending = attempts(balancer, 4 * rate, rate=rate)
        with dark(balancer, "web2"):
            began = time.monotonic()
            here.wait_for("web2 of web is down")
            out_s = time.monotonic() - began
            found = of(pending)
            print(
                told(
                    f"{balancer.engine} {balancer.variant}, {rate} a second, a host goes dark, out after {out_s:.2f} s",
                    found,
                )
            )
            assert not lost(found)
            (line,) = [line for line in here.said() if "is down" in line]
            assert line.endswith("clients get no answer"), "a check at its interval has found it"


@pytest.mark.parametrize("on_down", ["keep", "reset"])
def test_established_connections_to_a_dead_backend(balancer: Balancer, on_down: str) -> None:
    with running(balancer, service(health={**FAST, "on_down": on_down})) as here:
        held = balancer.hold(count=4)
        (handle,) = [handle for handle, answer in held if answer.name == "web2"]
        with dark(balancer, "web2"):
            here.wait_for("web2 of web is down")
            if on_down == "reset":
                assert balancer.talk(handle).error == "ConnectionResetError"
        here.wait_for("web2 of web is up", 2)
        if on_down == "keep":
            assert balancer.talk(handle).name == "web2", "it came back, and so did the connection"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_its_end_and_its_start_change_no_rotation(balancer: Balancer, number: int) -> None:
    with running(balancer, service(health=FAST)) as here, crashed(balancer, "web2"):
        here.wait_for("web2 of web is down")
        before = set(balancer.tally(count=6))
        here.stop(number)
        assert set(balancer.tally(count=6)) == before == {"web1", "web3", "web4"}
        here.start()
        here.wait_for("1 services, 1 of them with health checks", 2)
        assert set(balancer.tally(count=6)) == before
        assert here.health() == "down"
        assert len([line for line in here.said() if "web2 of web is down" in line]) <= 2


@pytest.mark.engines("nftables", "iptables-nft")
def test_flushed_rules_are_back_with_what_was_found(balancer: Balancer) -> None:
    with running(balancer, service(health=FAST)) as here, crashed(balancer, "web2"):
        here.wait_for("web2 of web is down")
        pending = attempts(balancer, 400)
        for times in range(1, 4):
            balancer.host.run("nft", "flush", "ruleset")
            here.wait_for("they are back", times)
        found = of(pending)
        print(told(f"{balancer.engine} {balancer.variant}, rules flushed three times", found))
        assert Counter(item.answer.who for item in found if not item.answer.error).keys() == {"web1", "web3", "web4"}
        # While there are no rules, the answer of a backend is not translated back: it reaches the balancer itself,
        # which resets the connection. So one that exchanges data at that moment may be cut, but no attempt fails.
        assert not lost(found)
        assert not balancer.info()["drift"]


@pytest.mark.engines("iptables-legacy")
def test_legacy_rules_are_looked_at(balancer: Balancer) -> None:
    with running(balancer, service(health=FAST)) as here:
        balancer.host.run("iptables-legacy", "-t", "nat", "-F", "NATLB.pre")
        here.wait_for("they are back")
        assert set(balancer.tally(count=8)) == set(NAMES)


def test_what_boots_follows(balancer: Balancer) -> None:
    with running(balancer, service(health=FAST)) as here, crashed(balancer, "web2"):
        here.wait_for("web2 of web is down")
        assert not balancer.info()["drift"], "what the agent is about to write is none"
        path = balancer.etc / "current" / "effective.json"
        balancer.host.call(agent.wait_for_file, str(path), WEB["web2"])
        assert json.loads(path.read_text())["health"][0]["state"] == "down"


def history(balancer: Balancer, name: str = "web2") -> list[str]:
    (found,) = balancer.info("web")["services"]
    (backend,) = [item for item in found["backends"] if item["name"] == name]
    return [f"{item['state']}: {item['reason']}" for item in backend["health_history"]]


def test_what_happened_is_remembered(balancer: Balancer) -> None:
    """Over a restart of the agent, a run, and a reboot, after which only /etc is there."""
    refused = f"down: connect to {WEB['web2']}:80: Connection refused, 2 of 2"
    accepts = "up: it accepts connections, 2 of 2"
    web = service(health=FAST)
    with running(balancer, web) as here:
        assert history(balancer) == [], "it has never been down"
        with crashed(balancer, "web2"):
            here.wait_for("web2 of web is down")
        here.wait_for("web2 of web is up", 2)
        here.stop()
        here.start()
        balancer.apply([web], program=single_file.text)
        with crashed(balancer, "web2"):
            here.wait_for("web2 of web is down", 2)
            assert history(balancer) == [refused, accepts, refused]
            kept = balancer.etc / "history.jsonl"
            balancer.host.call(agent.wait_for_file, str(kept), '"down"', 30.0, 2)
            (balancer.etc.parent / "run" / "history.jsonl").unlink()
            assert history(balancer) == [refused, accepts, refused]
        assert history(balancer, "web1") == []
        balancer.apply([], state="absent", program=single_file.text)
        here.stop()
    assert not kept.exists()


def test_a_run_and_an_override_are_followed(balancer: Balancer) -> None:
    web = service(health=FAST)
    with running(balancer, web) as here:
        balancer.backend("web1", "drained")
        with crashed(balancer, "web2"):
            here.wait_for("web2 of web is down")
            assert set(balancer.tally(count=6)) == {"web3", "web4"}
            balancer.apply([{**web, "backends": web["backends"][:3]}], program=single_file.text)
            assert set(balancer.tally(count=6)) == {"web3"}
            balancer.backend("web1", "active")
            assert set(balancer.tally(count=6)) == {"web1", "web3"}
        here.wait_for("web2 of web is up", 2)
        assert set(balancer.tally(count=6)) == {"web1", "web2", "web3"}


def test_a_drain_of_a_dead_backend_holds_when_it_is_up_again(balancer: Balancer) -> None:
    """It changes no rule, so no commit tells the agent of it."""
    with running(balancer, service(health=FAST)) as here:
        with crashed(balancer, "web2"):
            here.wait_for("web2 of web is down")
            balancer.backend("web2", "drained")
        here.wait_for("web2 of web is up", 2)
        assert set(balancer.tally(count=6)) == {"web1", "web3", "web4"}


def test_all_down_is_answered_at_once_and_all_come_back(balancer: Balancer) -> None:
    with running(balancer, service(health=FAST)) as here:
        with crashed(balancer, *NAMES):
            here.wait_for("is down", len(NAMES))
            (answer,) = balancer.ask()
            assert answer.error == "ConnectionRefusedError"
        here.wait_for("is up", 2 * len(NAMES))
        assert set(balancer.tally(count=8)) == set(NAMES)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "it is damaged"),
        ("{", "it is damaged"),
        ('{"format": 99, "health": []}', "a later version of natlb wrote it"),
        ('{"format": 1, "host": "another", "health": []}', "it was written on another host"),
    ],
)
def test_a_file_of_findings_that_says_nothing_is_set_aside(balancer: Balancer, text: str, fault: str) -> None:
    path = balancer.etc.parent / "run" / "health.json"
    with running(balancer, service(health=FAST)) as here:
        here.stop()
        path.write_text(text)
        here.start()
        here.wait_for("is up", 2 * len(NAMES))
        (line,) = [line for line in here.said() if str(path) in line]
        assert fault in line
        assert path.with_name("health.json.damaged").read_text() == text
        assert set(balancer.tally(count=8)) == set(NAMES)


@pytest.mark.slow
@pytest.mark.engines("nftables", "iptables-nft")
def test_a_backend_that_comes_and_goes_loads_nobody(balancer: Balancer) -> None:
    """Its server is there for a second, and gone for a second. It has to succeed ever more often to come back, so the
    kernel gets few commits, and in the end it stays out while it flaps."""
    with running(balancer, service(health=FAST)) as here:
        web2 = balancer.lab.backends["web2"]
        generation, cost = balancer.host.call(nf_tables.generation), here.cost()
        pending = attempts(balancer, count=FLAPPING_S * 50, rate=50.0)
        began = time.monotonic()
        while time.monotonic() < began + FLAPPING_S:
            web2.call(server.crash)
            time.sleep(1)
            web2.call(server.start, "web2", PORTS)
            time.sleep(1)
        found = of(pending)
        commits = balancer.host.call(nf_tables.generation) - generation
        used_s = here.cost()["cpu_s"] - cost["cpu_s"]
        said = [line for line in here.said() if "web2 of web is" in line]
        print(told(f"{balancer.engine} {balancer.variant}, flapping for {FLAPPING_S} s", found))
        print(f"  {commits} commits, {len(said) - 1} changes of state, {used_s:.2f} s of a processor")
        assert not lost(found)
        assert commits <= FLAPPING_COMMITS
        assert used_s <= FLAPPING_S * 0.1
        # It is as it says once it has settled down.
        here.wait_for("web2 of web is up", sum("is up" in line for line in said) + ("is down" in said[-1]))
        assert set(balancer.tally(count=8)) == set(NAMES)


@pytest.mark.engines("nftables")
def test_an_agent_that_outlives_a_removal_answers_after_the_next_deployment(balancer: Balancer) -> None:
    """As one of a supervisor of a host without systemd, which no run stops."""
    web, run = service(health=FAST), balancer.etc.parent / "run"
    silent = (1, "", "natlb: not ready: nothing is declared on this host (run natlb.netfilter.deploy)\n")
    with running(balancer, web) as here:
        balancer.remove()
        here.wait_for("0 services")
        assert os.listdir(run) == ["agent.sock"]
        (balancer.etc / "current").mkdir(parents=True)
        (balancer.etc / "current" / "natlb").write_text(single_file.text())
        assert balancer.natlb("ready") == silent
        shutil.rmtree(balancer.etc)
        outcome = balancer.apply([web], program=single_file.text)
        assert not [item for item in outcome.warnings if "agent" in item]
        assert balancer.natlb("ready") == (0, "ready\n", "")
        here.wait_for("1 services", 2)
        balancer.remove()
        here.wait_for("0 services", 2)
        here.stop()
        left = os.listdir(run) if run.exists() else []
        assert not run.exists(), left
