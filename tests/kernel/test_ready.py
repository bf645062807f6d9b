# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb ready`, which says whether this host can serve: each reason why not, with the agent and without."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from _natlb.cli import single_file
from _natlb.host import service_manager, store
from kernel_lab import program
from kernel_lab.balancer import Balancer, service
from kernel_lab.topology import VIP, WEB
from test_agent import FAST, crashed, running
from test_program import installed

OTHER = {"name": "api", "listen": [f"{VIP}:81"], "backends": [{"name": "web1", "address": WEB["web1"]}]}
#: What others do to rules: firewalls flush what they find at a restart.
FLUSH = {
    "nftables": ["nft flush ruleset", "nft flush chain ip natlb prerouting; nft flush chain ip natlb postrouting"],
    "iptables-nft": [
        "nft flush ruleset",
        "iptables-nft -w -t nat -F PREROUTING; iptables-nft -w -t nat -F POSTROUTING",
    ],
    "iptables-legacy": ["iptables-legacy -w -t nat -F PREROUTING; iptables-legacy -w -t nat -F POSTROUTING"],
}
READY = (0, "ready\n", "")
GONE = "natlb: not ready: the rules for IPv4 are gone (natlb apply puts them back)\n"
SILENT = f"natlb: not ready: the agent does not answer ({service_manager.says_how()})\n"


def names(declared: dict[str, Any]) -> list[str]:
    return [backend["name"] for backend in declared["backends"]]


def test_rules_that_are_gone(balancer: Balancer) -> None:
    declared = service()
    balancer.apply([declared], program=single_file.text)
    assert balancer.natlb("ready") == READY
    for lines in FLUSH[balancer.engine if balancer.engine == "nftables" else f"iptables-{balancer.variant}"]:
        balancer.host.run("sh", "-ec", lines)
        assert balancer.natlb("ready") == (1, "", GONE), lines
        balancer.natlb("apply")
        assert balancer.natlb("ready") == READY
    balancer.host.run("nft", "add", "table", "inet", "others")
    assert balancer.natlb("ready") == READY, "a commit of others is no reason"


@pytest.mark.engines("nftables")
def test_nothing_is_declared(balancer: Balancer) -> None:
    here = installed(balancer)
    file = Path(here._root, "etc", store.STATE)
    text = file.read_text()
    file.unlink()
    status, _out, err = here.natlb("ready")
    assert (status, err) == (1, "natlb: not ready: nothing is declared on this host (run natlb.netfilter.deploy)\n")
    file.write_text(text)


@pytest.mark.engines("nftables", "iptables-legacy")
def test_the_kernel_does_not_forward(balancer: Balancer) -> None:
    balancer.apply([service()], program=single_file.text)
    balancer.host.run("sysctl", "-w", "net.ipv4.ip_forward=0")
    status, _out, err = balancer.natlb("ready")
    assert (status, "net/ipv4/ip_forward is 0, so the kernel does not forward" in err) == (1, True)
    balancer.natlb("apply")
    assert balancer.natlb("ready") == READY


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP], ids=["ended", "killed", "hangs"])
@pytest.mark.engines("nftables")
def test_the_agent_does_not_answer(balancer: Balancer, how: int) -> None:
    with running(balancer, service(health=FAST)) as here:
        assert balancer.natlb("ready") == READY
        here.send(how) if how == signal.SIGSTOP else here.stop(how)
        try:
            assert balancer.natlb("ready") == (1, "", SILENT)
        finally:
            with contextlib.suppress(KeyError):
                here.send(signal.SIGCONT)
        if how != signal.SIGSTOP:
            here.start()
        balancer.host.call(program.until, balancer._root, ["ready"], 0)


def test_no_backend_can_serve_as_the_agent_finds(balancer: Balancer) -> None:
    declared = service(health=FAST)
    with running(balancer, declared) as here:
        with crashed(balancer, *names(declared)[:-1]):
            for name in names(declared)[:-1]:
                here.wait_for(f"{name} of web is down")
            assert balancer.natlb("ready") == READY, "one is enough"
            with crashed(balancer, names(declared)[-1]):
                here.wait_for(f"{names(declared)[-1]} of web is down")
                status, _out, err = balancer.natlb("ready")
                assert (status, err) == (1, "natlb: not ready: no backend of any service can serve: web\n")
        here.wait_for("is up", len(names(declared)) + 1)
        assert balancer.natlb("ready") == READY


@pytest.mark.engines("nftables")
def test_one_service_of_several_cannot_serve(balancer: Balancer) -> None:
    with running(balancer, service(health=FAST), {**OTHER, "health": FAST}) as here, crashed(balancer, "web1"):
        here.wait_for("web1 of api, web is down")
        assert balancer.natlb("ready") == (0, "ready\nno backend can serve: api\n", "")
        found = json.loads(balancer.natlb("ready", "--json")[1])
        assert found == {"ready": True, "reasons": [], "notes": ["no backend can serve: api"]}


@pytest.mark.engines("nftables")
def test_what_operators_say_counts_without_an_agent(balancer: Balancer) -> None:
    balancer.apply([OTHER], program=single_file.text)
    assert balancer.natlb("ready") == READY
    balancer.natlb("drain", "web1", "--min-active", "0")
    for _again in range(2):
        status, _out, err = balancer.natlb("ready")
        assert (status, err) == (1, "natlb: not ready: no backend of any service can serve: api\n")
    balancer.natlb("restore", "web1")
    assert balancer.natlb("ready") == READY
    balancer.apply([OTHER, service()], program=single_file.text)
    balancer.natlb("drain", "web1", "--min-active", "0")
    assert balancer.natlb("ready") == (0, "ready\nno backend can serve: api\n", "")


@pytest.mark.engines("nftables")
def test_the_agent_hears_of_what_operators_say(balancer: Balancer) -> None:
    with running(balancer, {**OTHER, "health": FAST}):
        balancer.natlb("drain", "web1", "--min-active", "0")
        # It looks at what is kept each second.
        balancer.host.call(program.until, balancer._root, ["ready"], 1)


@pytest.mark.engines("nftables")
def test_an_operator_takes_the_host_out(balancer: Balancer) -> None:
    declared = service(health=FAST)
    with running(balancer, declared):
        assert balancer.natlb("join") == (0, "had not left\nready\n", "")
        assert balancer.natlb("leave", "--reason", "new\nkernel") == (0, "left\n", "")
        status, _out, err = balancer.natlb("ready")
        assert status == 1
        assert re.fullmatch(GONE_FOR, err), err
        assert balancer.tally(count=8) == dict.fromkeys(names(declared), 2), "what arrives is balanced"
        # Runs do not change it, and what an operator says last is the reason.
        balancer.apply([declared], program=single_file.text)
        assert balancer.natlb("leave", "--reason", "new disk") == (0, "had left already: new kernel\n", "")
        assert balancer.natlb("leave") == (0, "had left already: new disk\n", "")
        (left,) = (text for text in balancer.info()["warnings"] if "has left" in text)
        assert left == balancer.natlb("ready")[2].strip().replace("natlb: not ready: ", "")
        assert left.replace("new disk", "new kernel") == err.strip().replace("natlb: not ready: ", "")
        assert "\nnatlb_left 1\n" in balancer.natlb("metrics")[1]
        assert balancer.natlb("join") == (0, "joined\nready\n", "")
        assert "\nnatlb_left 0\n" in balancer.natlb("metrics")[1]
        assert balancer.natlb("ready") == READY


@pytest.mark.engines("nftables")
def test_two_operators_take_the_host_out(balancer: Balancer) -> None:
    """Each of them for a reason, and one that comes back does not bring the other's host back."""
    balancer.apply([service()], program=single_file.text)

    def natlb(who: str, *words: str) -> tuple[int, str, str]:
        return tuple(balancer.host.call(program.run, balancer._root, None, list(words), sudo_user=who))

    assert natlb("kim", "leave", "--reason", "new kernel") == (0, "left\n", "")
    status, out, _err = natlb("alex", "leave", "--reason", "new disk")
    assert re.fullmatch(r"left\nothers have as well since \S+Z \(kim\): new kernel\n", out), out
    both = r"since \S+Z \(kim\): new kernel; since \S+Z \(alex\): new disk \(natlb join of each of them, "
    assert re.match(f"natlb: not ready: this host has left {both}", natlb("alex", "ready")[2])
    assert natlb("eve", "join")[:2] == (1, "had not left\n")
    status, out, err = natlb("kim", "join")
    assert (status, out) == (1, "joined, and others keep this host out (natlb join --all)\n")
    assert re.match(r"natlb: not ready: this host has left since \S+Z \(alex\): new disk \(natlb join brings", err), err
    assert natlb("alex", "join")[:2] == (0, "joined\nready\n")
    natlb("kim", "leave")
    natlb("", "leave")
    assert natlb("alex", "join", "--all")[:2] == (0, "joined\nready\n")


GONE_FOR = (
    r"natlb: not ready: this host has left since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ: new kernel "
    r"\(natlb join brings it back\)\n"
)


@pytest.mark.engines("nftables")
def test_whoever_joins_is_told_what_else_is_wrong(balancer: Balancer) -> None:
    balancer.apply([service()], program=single_file.text)
    balancer.natlb("leave")
    balancer.host.run("nft", "delete", "table", "ip", "natlb")
    assert balancer.natlb("join") == (1, "joined\n", GONE)


@pytest.mark.engines("nftables")
def test_nothing_is_left_behind(balancer: Balancer) -> None:
    balancer.apply([service()], program=single_file.text)
    balancer.natlb("ready")
    balancer.natlb("leave")
    assert Path(balancer._root, "run", store.READINESS).exists()
    balancer.apply([], state="absent")
    assert not Path(balancer._root, "etc", store.LEFT).exists()
    assert not Path(balancer._root, "run").exists() or not list(Path(balancer._root, "run").glob("*.json"))


def many(count: int, **keys: Any) -> list[dict[str, Any]]:
    """Services at ports of their own."""
    backends = [{"name": name, "address": address} for name, address in WEB.items()]
    return [
        {
            "name": f"s{number}",
            "listen": [f"192.0.2.{20 + number // 1000}:{1000 + number % 1000}"],
            "backends": backends,
        }
        | keys
        for number in range(count)
    ]


@pytest.mark.parametrize("checked", [False, True], ids=["files", "agent"])
@pytest.mark.engines("nftables")
def test_it_costs_little_whatever_is_declared(balancer: Balancer, checked: bool) -> None:
    """keepalived asks each second or two, on each host of a fleet."""
    count = int(os.environ.get("NATLB_READY_SERVICES", "500"))
    around = running(balancer, service(health=FAST), *many(count)) if checked else contextlib.nullcontext()
    with around as agent:
        if not checked:
            balancer.apply(many(count), program=single_file.text)
        balancer.natlb("ready")
        before = agent.cost()["cpu_s"] if agent else 0.0
        mine, version = balancer.host.call(program.processor_ms, balancer._root, [["ready"], ["version"]], 10)
        print(
            f"figures: {count} services, ms of processor time: natlb ready {mine:.0f}, natlb version {version:.0f}",
            end="",
        )
        print(f", the agent {1000 * (agent.cost()['cpu_s'] - before) / 10:.1f} for each" if agent else "")
        assert mine < version
        imported = balancer.host.call(program.imported, balancer._root, ["ready"])
    assert "_natlb.status.readiness" in imported
    assert (
        imported & {"argparse", "hashlib", "_natlb.cli.main", "_natlb.status.serving", "_natlb.model.entities"} == set()
    )
