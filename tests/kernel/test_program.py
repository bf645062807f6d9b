# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program `natlb`, as a run leaves it on the host: what an operator types there, sees, and gets as exit code."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from typing import Any

import pytest
from _natlb.cli import single_file
from kernel_lab import drive, program, traffic
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import VIP, WEB
from test_agent import FAST, crashed, running

SHARED = {"name": "api", "listen": [f"{VIP}:81"], "backends": [{"name": "web1", "address": WEB["web1"]}]}


def checks(balancer: Balancer, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the checks by address, and what was complained of."""
    status, out, err = balancer.natlb("checks", "--json", *words)
    found = json.loads(out)
    return status, {"agent": found["agent"], **{item["address"]: item for item in found["checks"]}}, err


def test_checks_tell_what_the_agent_knows(balancer: Balancer) -> None:
    with running(balancer, service(health=FAST), {**SHARED, "health": FAST}) as here, crashed(balancer, "web2"):
        here.wait_for("web2 of web is down")
        assert [item["redispatch"] for item in balancer.info()["services"]] == [True, False]
        status, found, err = checks(balancer)
        assert (status, found["agent"], err) == (0, True, "")
        good, bad = found[WEB["web1"]], found[WEB["web2"]]
        assert [item["service"] for item in good["backends"]] == ["web", "api"], "one check for both"
        assert (good["state"], good["last"]["result"], bad["state"], bad["last"]["result"]) == (
            "up",
            "up",
            "down",
            "down",
        )
        assert bad["last"]["reason"] == f"connect to {WEB['web2']}:80: Connection refused"
        assert bad["reason"] == f"connect to {WEB['web2']}:80: Connection refused, 2 of 2"
        assert good["last"]["took_s"] < 0.4
        assert good["next_in_s"] is None or good["next_in_s"] <= 0.5
        status, out, err = balancer.natlb("checks")
        header, *lines = out.splitlines()
        rows, reasons = lines[::2], lines[1::2]
        assert (status, err, len(rows)) == (0, "", 4)
        assert all(reason.startswith("    ") for reason in reasons)
        assert header.split()[:6] == ["BACKEND", "CHECK", "SERVICES", "EVERY", "TIMEOUT", "STATE"]
        assert rows[0].split()[:8] == ["web1", "tcp", f"{WEB['web1']}:80", "web,", "api", "500ms", "400ms", "up"]
        assert (rows[1].split()[0], reasons[1].strip()) == ("web2", f"connect to {WEB['web2']}:80: Connection refused")
        assert set(checks(balancer, "api")[1]) == {"agent", WEB["web1"]}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP], ids=["ended", "killed", "hangs"])
@pytest.mark.engines("nftables")
def test_checks_without_the_agent_tell_what_was_found_last(balancer: Balancer, how: int) -> None:
    with running(balancer, service(health=FAST)) as here, crashed(balancer, "web2"):
        here.wait_for("web2 of web is down")
        if how == signal.SIGSTOP:
            here.send(how)
        else:
            here.stop(how)
        try:
            status, found, err = checks(balancer)
            assert (status, found["agent"]) == (6, False)
            assert [found[WEB[name]]["state"] for name in ("web1", "web2")] == ["up", "down"]
            assert found[WEB["web2"]]["reason"].endswith("Connection refused, 2 of 2")
            assert found[WEB["web1"]]["last"]["took_s"] is None
            words = "no answer within 5 s" if how == signal.SIGSTOP else "nobody listens"
            assert err.startswith("natlb: the agent does not answer: ")
            assert words in err
            assert err.endswith("this is what was found last\n")
            if how == signal.SIGKILL:
                status, out, err = balancer.natlb("checks")
                assert status == 6
                assert "NEXT" not in out, "only the agent knows"
        finally:
            with contextlib.suppress(KeyError):
                here.send(signal.SIGCONT)


@pytest.mark.engines("nftables")
def test_no_checks_are_no_problem(balancer: Balancer) -> None:
    installed(balancer)
    assert balancer.natlb("checks") == (0, "no health checks are declared\n", "")
    assert json.loads(balancer.natlb("checks", "--json")[1]) == {"agent": False, "checks": []}


@pytest.mark.engines("nftables")
def test_checks_of_a_service_without_any(balancer: Balancer) -> None:
    """A service that is not declared is not one without checks."""
    with running(balancer, service(health=FAST), SHARED):
        assert balancer.natlb("checks", "api") == (0, "no health checks are declared for service api\n", "")
        assert json.loads(balancer.natlb("checks", "api", "--json")[1]) == {"agent": True, "checks": []}
        unknown = (1, "", "natlb: service wbe: not declared on this host (declared: web, api)\n")
        assert balancer.natlb("checks", "wbe") == unknown


@pytest.mark.engines("nftables")
def test_status_without_the_agent_says_so(balancer: Balancer) -> None:
    """Health is then what was found last, and nobody takes a dead backend out."""
    with running(balancer, service(health=FAST)) as here:
        assert "agent" not in balancer.natlb("status")[1]
        here.stop(signal.SIGKILL)
        assert "the agent does not answer: nobody checks backends" in balancer.natlb("status")[1]
        balancer.apply([service()], program=single_file.text)
        assert "agent" not in balancer.natlb("status")[1], "none is needed"


# -- exit codes ------------------------------------------------------------------------------------------------------


def installed(balancer: Balancer, **keys: Any) -> Balancer:
    """A service, and the program without its agent."""
    balancer.apply([service(**keys)], agent=True, program=single_file.text)
    return balancer


def test_done_and_nothing_to_do(balancer: Balancer) -> None:
    here = installed(balancer)
    assert here.natlb("drain", "web2", "--reason", "why not")[:2] == (0, "web2 of web: changed, 0 connections left\n")
    again = here.natlb("drain", "web2", "--reason", "why not")
    assert again[:2] == (0, "web2 of web: was so already, 0 connections left\n")
    assert set(here.tally(count=6)) == {"web1", "web3", "web4"}
    assert "why not" in here.natlb("status", "web")[1]
    assert here.natlb("drain", "web2")[:2] == (0, "web2 of web: changed, 0 connections left\n"), "no reason is one"
    left = f"goes on: {WEB['web2']} of web: drained\n"
    only = ("restore", "web2", "--only-reason", "why not")
    assert here.natlb(*only)[:2] == (0, f"web2 of web: changed\n{left}")
    assert here.natlb(*only)[:2] == (0, f"web2 of web: was so already\n{left}")
    assert here.natlb("restore", "web2")[:2] == (0, "web2 of web: changed\n")
    assert here.natlb("weight", "web1", "2")[:2] == (0, "web1 of web: changed, 0 connections left\n")
    assert here.natlb("apply")[:2] == (0, "nothing to change\n")
    assert here.natlb("version")[0] == 0


@pytest.mark.engines("nftables")
def test_errors_and_misunderstandings(balancer: Balancer) -> None:
    here = installed(balancer)
    status, _out, err = here.natlb("drain", "web9")
    assert (status, err.startswith("natlb: backend web9: every service has none")) == (1, True)
    for words in (["dran", "web1"], ["weight", "web1", "257"], ["drain"], ["drain", "web1", "--timeout", "soon"], []):
        status, out, err = here.natlb(*words)
        assert (status, out) == (2, ""), words
        assert err.startswith("usage: natlb")
    for words, remedy in (
        (["192.0.2.1"], "write it like"),
        (["192.0.2.1", "192.0.2.10:http"], "is not a port"),
        (["2001:db8::1", "2001:db8::10:80"], "like [2001:db8::10]:80"),
        (["192.0.2.1", f"{VIP}:80", "--for", "5"], "add --live"),
    ):
        status, out, err = here.natlb("trace", *words)
        assert (status, out, remedy in err) == (2, "", True), (words, err)


def test_refused_by_min_active(balancer: Balancer) -> None:
    here = installed(balancer)
    status, out, err = here.natlb("drain", "web2", "--min-active", "4")
    assert (status, out) == (3, "")
    assert "3 of its backends would serve without web2, and min_active is 4" in err
    assert "say min_active: 0, with the playbook natlb_min_active=0, with the program --min-active 0" in err
    assert set(here.tally(count=8)) == {"web1", "web2", "web3", "web4"}, "nothing was changed"
    for name in ("web1", "web2", "web3"):
        assert here.natlb("disable", name)[0] == 0
    assert here.natlb("weight", "web4", "0")[0] == 3, "the last one stays unless it is said in so many words"
    assert here.natlb("weight", "web4", "0", "--min-active", "0")[0] == 0


def test_the_deadline_passes(balancer: Balancer) -> None:
    here = installed(balancer)
    held = here.hold(count=4)
    (handle,) = [handle for handle, answer in held if answer.name == "web2"]
    words = ("drain", "web2", "--wait", "--timeout", "1")
    assert here.natlb(*words)[:2] == (4, "web2 of web: changed, 1 connections left\n")
    assert here.talk(handle).name == "web2"
    assert here.natlb(*words, "--close")[:2] == (
        0,
        "web2 of web: changed, 1 connections closed, 0 connections left\n",
    )


def test_another_change_waits(balancer: Balancer) -> None:
    """Nobody has to wait with it."""
    here = installed(balancer)
    token = here.apply([service(listen=[f"{VIP}:80", f"{VIP}:82"])], agent=True, rollback_after=60).token
    assert here.natlb("drain", "web2", "--min-active", "4")[0] == 3
    assert not list(here.etc.glob("overrides.json"))
    assert here.natlb("drain", "web2")[:2] == (0, "web2 of web: changed, 0 connections left\n")
    assert here.natlb("apply")[:2] == (0, "nothing to change\n")
    assert here.natlb("status")[0] == 0
    here.host.call(drive.confirm, here._root, token)
    assert here.natlb("drain", "web2")[:2] == (0, "web2 of web: was so already, 0 connections left\n")


@pytest.mark.engines("nftables")
def test_a_reader_that_has_had_enough(balancer: Balancer) -> None:
    here = installed(balancer)
    command = f"{here._root}/etc/current/natlb"
    script = f"python3 -I {command} --root {here._root} status | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}"
    assert here.host.run("bash", "-c", script).split() == ["0"]


@pytest.mark.engines("nftables")
def test_who_waits_at_a_terminal_is_told_how_far_it_is(balancer: Balancer) -> None:
    here = installed(balancer)
    held = [answer.name for _handle, answer in here.hold(count=4)]
    its = held.count("web2")
    assert its, held
    here.host.call(program.begin, here._root, None, ["drain", "web2", "--wait", "--timeout", "60"], (100, 20))
    here.host.call(program.wait_for, here._root, f"web2: {its} connections left, ", 2)
    here.client.call(traffic.release)
    here.host.call(program.wait_for, here._root, "0 connections left\r\n")
    said = str(here.host.call(program.said, here._root))
    assert said.rpartition("\x1b[K")[2].startswith("web2 of web: changed, 0 connections left"), "nothing is left of it"


# -- watch -----------------------------------------------------------------------------------------------------------


class Watched:
    """A `natlb watch` that goes on."""

    def __init__(self, balancer: Balancer, *words: str, terminal: tuple[int, int] | None = None) -> None:
        self.balancer, self.root = balancer, balancer._root
        line = ["watch", "--interval", "0.2", *words]
        balancer.host.call(program.begin, self.root, balancer.variant or None, line, terminal)

    def wait_for(self, words: str, times: int = 1) -> str:
        return str(self.balancer.host.call(program.wait_for, self.root, words, times))

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        status, said = self.balancer.host.call(program.end, self.root, number)
        return int(status), str(said)

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.balancer.host.call(program.said, self.root).splitlines())
        return [line for line in lines if line["event"] == kind]


def test_what_happens_is_told_as_it_happens(balancer: Balancer) -> None:
    web = service(health=FAST)
    with running(balancer, web) as here:
        seen = Watched(balancer, "--json")
        seen.wait_for(", agent: all up, 0 overrides")
        with crashed(balancer, "web2"):
            seen.wait_for("web2 of web is down")
            balancer.natlb("drain", "web3", "--reason", "kernel update")
            seen.wait_for("web3 of web: drained (kernel update)")
        seen.wait_for("web2 of web is up")
        held = balancer.hold(count=6)
        seen.wait_for(", 6 active (")
        if balancer.variant != "legacy":
            balancer.host.run("nft", "flush", "ruleset")
            # The drain was told as well, by the name of another program.
            seen.wait_for('"nft (process ')
            assert [
                line for line in seen.events("rules") if re.match(r"nft \(process \d+\) has changed", line["message"])
            ]
        else:
            balancer.host.run("iptables-legacy", "-t", "nat", "-F", "NATLB.pre")
        seen.wait_for("somebody has changed rules of natlb; they are back")
        balancer.apply([web, {**SHARED, "health": FAST}], program=single_file.text)
        seen.wait_for("a run has declared otherwise: added: api")
        here.stop()
        seen.wait_for("the agent does not answer")
        here.start()
        seen.wait_for("the agent answers")
        (health,) = (line for line in seen.events("health") if line["state"] == "down")
        assert (health["service"], health["backend"]) == ("web", "web2")
        assert "Connection refused" in health["message"]
        (override,) = seen.events("override")
        assert (override["service"], override["backend"], override["state"]) == ("web", "web3", "drained")
        active = {item["name"]: item["active"] for item in seen.events("counters")[0]["backends"]}
        rates = [item for line in seen.events("counters") for item in line["backends"] if item["new_per_second"] > 0]
        assert active.keys() == WEB.keys()
        assert len(held) == 6
        assert rates
        status, said = seen.end()
        assert status == 130
        assert "Traceback" not in said


@pytest.mark.engines("nftables", "iptables-nft")
def test_without_the_agent_it_is_told_that_rules_are_gone(balancer: Balancer) -> None:
    here = installed(balancer)
    seen = Watched(here)
    seen.wait_for("the agent does not answer")
    here.natlb("leave", "--reason", "kernel update")
    seen.wait_for(": kernel update (natlb join brings it back)")
    here.natlb("join")
    seen.wait_for("this host is back (natlb join)")
    here.host.run("nft", "flush", "ruleset")
    text = seen.wait_for("the rules of natlb are gone (natlb apply puts them back)")
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d nft \(process \d+\) has changed rules$", text, re.MULTILINE)
    assert here.natlb("apply")[0] == 0
    assert seen.end()[0] == 130


@pytest.mark.engines("nftables")
def test_a_terminal_is_drawn_again_and_given_back(balancer: Balancer) -> None:
    with running(balancer, service(health=FAST)) as here, crashed(balancer, "web2"):
        here.wait_for("web2 of web is down")
        seen = Watched(balancer, terminal=(44, 20))
        balancer.ask(count=4)
        seen.wait_for("\033[H", 4)
        balancer.natlb("drain", "web3")
        seen.wait_for("web3 of web: drained")
        # News are drawn at once, and the table when it is read again.
        seen.wait_for("agent: 1 down, 1")
        status, said = seen.end()
        assert status == 130
        assert said.startswith("\033[?1049h\033[?25l")
        assert said.endswith("\033[?25h\033[?1049l")
        drawn = said.rpartition("\033[H")[2].partition("\033[J")[0].split("\033[K\r\n")
        assert max(map(len, drawn)) <= 44, "folded"
        assert len(drawn) <= 20
        text = " ".join(" ".join(drawn).split())
        assert "web2 of web is down: connect to" in text, "as it was when the watch began"
        assert "nftables, agent: 1 down, 1 overrides" in text
        assert re.search(r"web web1 10\.0\.0\.3 active up [\d.]+ 0", text)
        assert "down" in text


@pytest.mark.engines("nftables")
def test_a_watch_may_have_an_end(balancer: Balancer) -> None:
    here = installed(balancer)
    assert here.natlb("watch", "--count", "2", "--interval", "0.1")[::2] == (0, "")
    assert here.natlb("watch", "--for", "0.3", "--interval", "10")[::2] == (0, "")
    assert here.natlb("watch", "nobody")[0] == 1
