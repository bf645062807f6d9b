# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`min_healthy`: a service with too few healthy backends leaves them to its backups, and comes back later."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest
from _natlb.cli import single_file
from _natlb.errors import MinActiveError
from _natlb.host import nf_tables
from kernel_lab import agent, program
from kernel_lab.balancer import Balancer, Mapping, service, webs
from kernel_lab.topology import VIP, VIP6, WEB6
from test_agent import FAST, crashed, running
from test_boot import reboot
from test_rollback import undone

BELOW, AGAIN = "web is below min_healthy", "web has enough healthy backends again"
SPARE = {"web4"}
#: How long a connection of before has to be served by the same backend, at most.
FOLLOWS_S = 10.0


def quorate(*names: str, spare: bool = True, **keys: Any) -> Mapping:
    """Three backends, of which two have to be healthy, and all to come back; the fourth is their backup."""
    backends = [*webs(*(names or ("web1", "web2", "web3"))), *(webs("web4", backup=True) if spare else [])]
    return service(**{"health": FAST, "backends": backends, "min_healthy": 2, "min_healthy_again": 3, **keys})


def seen(balancer: Balancer, **options: Any) -> set[str]:
    return set(balancer.tally(count=6, **options))


def standing(balancer: Balancer) -> Mapping:
    ((found,),) = [item["min_healthy"] for item in balancer.info("web")["services"]]
    return dict(found)


def test_too_few_leave_the_backups_and_come_back_together(balancer: Balancer) -> None:
    declared = quorate()
    with running(balancer, declared) as here:
        with crashed(balancer, "web2"):
            here.wait_for("web2 of web is down")
            held = balancer.hold(count=4)
            assert {answer.name for _handle, answer in held} == {"web1", "web3"}
            generation = balancer.host.call(nf_tables.generation)
            with crashed(balancer, "web3"):
                here.wait_for(BELOW)
                if balancer.nftables:
                    assert balancer.host.call(nf_tables.generation) - generation == 1, "all of it is one commit"
                assert seen(balancer) == SPARE
                (handle,) = [handle for handle, answer in held if answer.name == "web1"][:1]
                assert balancer.talk(handle).name == "web1", "what is established stays"
                assert here.said()[-1] == f"{BELOW}: 1 of 3 backends healthy, back at 3"
                assert standing(balancer).items() >= {"healthy": 1, "of": 3, "needed": 3, "below": True}.items()
                assert "below min_healthy since" in balancer.natlb("status")[1]
                assert 'natlb_service_below_min_healthy{service="web",family="ip"} 1' in balancer.natlb("metrics")[1]
                traced = balancer.natlb("trace", "198.18.7.7", f"{VIP}:80")[1]
                assert "web1 (10.0.0.3) gets no new connections: below min_healthy since" in traced
                assert balancer.natlb("ready")[0] == 0
            here.wait_for("web3 of web is up", 2)
            assert seen(balancer) == SPARE, "two are enough to stay, and not to come back"
            here.stop(signal.SIGKILL)
            here.start()
            here.wait_for("with health checks", 2)
            assert seen(balancer) == SPARE
        here.wait_for(AGAIN)
        assert seen(balancer) == {"web1", "web2", "web3"}
        assert standing(balancer)["below"] is False
        assert 'natlb_service_below_min_healthy{service="web",family="ip"} 0' in balancer.natlb("metrics")[1]
        balancer.apply([declared], program=single_file.text)
        assert not balancer.apply([declared], program=single_file.text).changed


def test_a_run_does_not_bring_it_back(balancer: Balancer) -> None:
    """It takes more than two as long as the keys are the same. Without them, the backends serve as ever."""
    declared = quorate()
    with running(balancer, declared) as here, crashed(balancer, "web2"):
        with crashed(balancer, "web3"):
            here.wait_for(BELOW)
        here.wait_for("web3 of web is up", 2)
        balancer.apply([declared], program=single_file.text)
        for options in ({"check": True}, {}):
            outcome = balancer.apply([declared], program=single_file.text, **options)
            assert not outcome.changed
            (warning,) = [line for line in outcome.warnings if "min_healthy" in line]
            assert warning == "service web: it is below min_healthy: 2 of 3 backends healthy, back at 3"
        assert seen(balancer) == SPARE
        here.stop()
        run = balancer.etc.parent / "run"
        balancer.host.call(agent.wait_for_file, str(balancer.etc / "current" / "effective.json"), "0.0.0.0")
        (run / "health.json").unlink()
        assert not balancer.apply([declared], program=single_file.text).changed, "what boots remembers it"
        assert seen(balancer) == SPARE
        plain = {key: value for key, value in declared.items() if not key.startswith("min_healthy")}
        outcome = balancer.apply([plain], program=single_file.text)
        assert "web: web1 share 0 % -> 50 %" in outcome.diff
        assert seen(balancer) == {"web1", "web3"}
        assert not balancer.apply([plain], program=single_file.text).changed
        outcome = balancer.apply([declared], program=single_file.text)
        assert seen(balancer) == {"web1", "web3"}, "it has never been below with these keys"


def test_it_boots_as_it_was(balancer: Balancer) -> None:
    """Below, as long as nobody has checked since."""
    declared = quorate()
    balancer.apply([declared], program=single_file.text)
    for name in ("web1", "web2"):
        balancer.backend(name, "drained", min_active=0)
    balancer.backend("web1", "active")
    assert seen(balancer) == SPARE
    for path in (balancer.etc.parent / "run").glob("*"):
        path.unlink()
    reboot(balancer, "boot")
    assert seen(balancer) == SPARE
    assert not balancer.apply([declared], program=single_file.text).changed
    assert standing(balancer).items() >= {"healthy": 2, "needed": 3, "below": True}.items()


def test_a_change_that_is_not_confirmed(balancer: Balancer) -> None:
    """What goes back is what was: the backups serve again."""
    declared = quorate()
    balancer.apply([declared], program=single_file.text)
    for name in ("web1", "web2"):
        balancer.backend(name, "drained", min_active=0)
    outcome = balancer.apply([{**declared, "min_healthy": 1, "min_healthy_again": 1}], rollback_after=1)
    assert outcome.token
    assert seen(balancer) == {"web3"}
    undone(balancer)
    assert seen(balancer) == SPARE
    assert not balancer.apply([declared], program=single_file.text).changed


def test_a_drain_while_it_is_below_holds(balancer: Balancer) -> None:
    """It changes no rule, and the agent knows of it nevertheless when it brings the service back."""
    declared = quorate(min_healthy=2, min_healthy_again=2)
    with running(balancer, declared) as here:
        with crashed(balancer, "web2", "web3"):
            here.wait_for(BELOW)
            here.wait_for("is down", 2)
            balancer.backend("web1", "drained")
            assert seen(balancer) == SPARE
        here.wait_for(AGAIN)
        assert seen(balancer) == {"web2", "web3"}


@pytest.mark.parametrize("fail_open", [False, True], ids=["refused", "fail_open"])
def test_without_a_backup(balancer: Balancer, fail_open: bool) -> None:
    """Nobody is served, as `when_empty` says; with `fail_open` the few go on."""
    declared = quorate(spare=False, health={**FAST, "fail_open": fail_open}, min_healthy="60%", min_healthy_again=2)
    with running(balancer, declared) as here:
        with crashed(balancer, "web2", "web3"):
            here.wait_for(BELOW)
            here.wait_for("is down", 2)
            if fail_open:
                assert seen(balancer) == {"web1"}
            else:
                assert balancer.tally(count=2) == {"ConnectionRefusedError": 2}
                assert balancer.natlb("ready")[0] != 0
            assert standing(balancer)["below"] is True
        here.wait_for(AGAIN)
        here.wait_for("is up", 5)
        assert seen(balancer) == {"web1", "web2", "web3"}


def test_a_drain_counts_and_is_refused_where_it_would_take_the_service_below(balancer: Balancer) -> None:
    declared = quorate()
    balancer.apply([declared], program=single_file.text)
    balancer.backend("web1", "drained")
    for options in ({"check": True}, {}):
        with pytest.raises(MinActiveError) as error:
            balancer.backend("web2", "drained", **options)
        assert str(error.value) == (
            "service web: 1 of 3 backends would be healthy, and min_healthy is 2, so none of them would serve (bring "
            "another one back first; to drain it nevertheless say min_active: 0, with the playbook natlb_min_active=0, "
            "with the program --min-active 0)"
        )
    assert seen(balancer) == {"web2", "web3"}
    balancer.backend("web4", "drained")
    balancer.backend("web4", "active")
    balancer.backend("web2", "drained", min_active=0)
    assert seen(balancer) == SPARE
    balancer.backend("web2", "active")
    assert seen(balancer) == SPARE, "below, it comes back with three alone"
    assert not balancer.apply([declared], program=single_file.text).changed
    balancer.backend("web1", "active")
    assert seen(balancer) == {"web1", "web2", "web3"}
    assert not (balancer.etc.parent / "run" / "health.json").exists()
    assert not balancer.apply([declared], program=single_file.text).changed


@pytest.mark.engines("nftables")
def test_an_agent_tells_of_a_drain_that_takes_it_below(balancer: Balancer) -> None:
    """And whoever watches for programs learns which service it is."""
    with running(balancer, quorate()) as here:
        balancer.host.call(program.begin, balancer._root, None, ["watch", "--json"], None)
        balancer.host.call(program.wait_for, balancer._root, '"start"')
        for name in ("web1", "web2"):
            assert balancer.natlb("drain", name, "--min-active", "0")[0] == 0
        here.wait_for(f"{BELOW}: 1 of 3 backends healthy, back at 3")
        said = balancer.host.call(program.wait_for, balancer._root, BELOW)
        (found,) = [item for item in map(json.loads, said.splitlines()) if BELOW in item["message"]]
        assert (found["event"], found["service"]) == ("health", "web")
        balancer.host.call(program.end, balancer._root, signal.SIGINT)


def test_each_family_counts_by_itself(balancer: Balancer) -> None:
    six = [{"name": f"six{name[-1]}", "address": WEB6[name], "backup": name == "web4"} for name in sorted(WEB6)]
    backends = [*quorate()["backends"], *six]
    listen = [f"{VIP}:80", f"[{VIP6}]:80"]
    balancer.apply([quorate(listen=listen, backends=backends)])
    for name in ("six1", "six2"):
        balancer.backend(name, "drained", min_active=0)
    assert seen(balancer) == {"web1", "web2", "web3"}
    assert seen(balancer, target=f"[{VIP6}]:80") == SPARE
    (warning,) = [line for line in balancer.info()["warnings"] if "min_healthy" in line]
    assert warning == "service web: it is below min_healthy: 1 of 3 IPv6 backends healthy, back at 3"


@pytest.mark.parametrize("method", ["random", "source_hash", "flow_hash", "least_connections"])
def test_any_method(balancer: Balancer, method: str) -> None:
    declared = quorate(method=method)
    balancer.apply([declared], program=single_file.text)
    before = [answer.name for answer in balancer.ask(count=12, sources=["198.18.7.7"])]
    for name in ("web1", "web2"):
        balancer.backend(name, "drained", min_active=0)
    assert seen(balancer) == SPARE
    assert not balancer.apply([declared], program=single_file.text).changed
    for name in ("web1", "web2"):
        balancer.backend(name, "active")
    after = [answer.name for answer in balancer.ask(count=12, sources=["198.18.7.7"])]
    assert "web4" not in after
    if method == "source_hash":
        assert after == before, "clients are back where they were"


def test_udp_and_affinity(balancer: Balancer) -> None:
    """A client that is remembered goes to the backup as well, and the flow of another one stays."""
    balancer.apply([quorate(affinity=300, protocol=["tcp", "udp"])], program=single_file.text)
    guest = "198.18.7.7"
    (first,) = balancer.ask(sources=[guest])
    (handle, flow), *_rest = balancer.hold(protocol="udp")
    others = [name for name in ("web1", "web2", "web3") if name != first.name]
    for name in others:
        balancer.backend(name, "drained", min_active=0)
    began = time.monotonic()
    assert {answer.name for answer in balancer.ask(count=3, sources=[guest])} == SPARE
    assert balancer.talk(handle).name == flow.name
    assert time.monotonic() - began < FOLLOWS_S
