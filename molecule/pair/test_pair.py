"""What becomes of the virtual addresses and of new connections, while one of two balancers is killed or cannot serve.

The tests follow upon each other: each begins where the one before has left the addresses.
"""

from __future__ import annotations

import pathlib
import sys
import time

import pytest
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "lab"))

import attempts
import lab
from fleet_clients import (
    ALL,
    BUSY,
    HALF,
    Established,
    Seen,
    all_are_kept,
    clients,
    converge,
    on,
    run,
    wait_for,
)
from pair_clients import (
    ADDRESSES,
    FIRST,
    GATEWAYS,
    KEPT,
    KILLED_S,
    SECOND,
    TARGETS,
    come_back,
    failover,
    holders,
    keepalived,
    kill,
    reloads,
    settle,
    wait_for_holder,
)

#: Three bad answers, one every two seconds.
UNREADY_S = 8.0
whole = pytest.mark.skipif(not ALL, reason="make fleet runs it")


def test_both_addresses_are_on_one() -> None:
    settle()


def test_services_may_change_without_keepalived() -> None:
    before = {host: (keepalived(host), reloads(host)) for host in (FIRST, SECOND)}
    (web,) = yaml.safe_load((pathlib.Path(__file__).parent / "vars.yml").read_text())["natlb_services"]
    seen: dict[str, Seen] = {}
    with clients("services are changed", seen, TARGETS):
        out = converge(natlb_services=[{**web, "backends": web["backends"][::2]}])
    assert "changed=1 " in out
    assert {host: (keepalived(host), reloads(host)) for host in (FIRST, SECOND)} == before
    assert [one.failed for one in seen.values()] == [0, 0]


def test_a_roll_out_begins_with_the_standby() -> None:
    """And what it cannot serve goes back there, before the balancer with the addresses is touched."""
    before = {host: (keepalived(host), reloads(host)) for host in (FIRST, SECOND)}
    seen: dict[str, Seen] = {}
    with clients("a roll-out", seen, TARGETS):
        out = run("ansible-playbook", "natlb.netfilter.deploy")
    assert out.startswith("exit 0\n"), out
    assert f"\n0 of 2 balancers are done, next: {SECOND}\n" in out
    dead = {"name": "dead", "listen": "192.0.2.10:81", "backends": [{"address": "10.0.0.3", "port": 4}]}
    with clients("one that goes back", seen, TARGETS):
        out = run("ansible-playbook", "natlb.netfilter.deploy", natlb_services_dead=[dead])
    assert out.startswith("exit 2\n"), out
    assert f"{SECOND}: went back to its former rules" in out
    assert "dead" not in "".join(on(host, "natlb", "status") for host in (FIRST, SECOND))
    assert [on(host, "natlb", "ready") for host in (FIRST, SECOND)] == ["ready\n"] * 2
    assert {host: (keepalived(host), reloads(host)) for host in (FIRST, SECOND)} == before
    wait_for_holder(FIRST)
    assert [one.failed for one in seen.values()] == [0, 0]


def test_the_first_one_is_killed() -> None:
    """Established connections go on, though the other one knows none."""
    for web in ("web1", "web2"):
        for gateway in GATEWAYS:
            on(web, "ip", "route", "replace", "default", "via", gateway)
    held = Established(HALF, BUSY, KEPT)
    assert set(held.answered) == {"web1", "web2"}
    outage_s = kill(FIRST, SECOND)
    all_are_kept(held, "client", "busy", "backend", outage_s=outage_s)
    held.stop()


@whole
def test_it_comes_back_and_takes_nothing() -> None:
    seen: dict[str, Seen] = {}
    with clients("it comes back", seen, TARGETS):
        come_back(FIRST)
        # As long as another one would take to take over.
        time.sleep(KILLED_S[0] * 2)
        wait_for_holder(SECOND)
    assert [one.failed for one in seen.values()] == [0, 0]


@whole
def test_it_takes_them_back_if_that_is_asked_for() -> None:
    before = keepalived(SECOND), reloads(SECOND)
    seen: dict[str, Seen] = {}
    with clients("it takes them back", seen, TARGETS):
        converge(natlb_failover_preempt=True)
        wait_for_holder(FIRST)
    assert (keepalived(SECOND), reloads(SECOND)) == (before[0], before[1] + 1), "a reload, and no restart"


@whole
def test_established_connections_move_and_come_back() -> None:
    """The first one still has what it tracked, which is old by then."""
    held = Established(HALF, BUSY, KEPT)
    on(FIRST, "systemctl", "stop", "keepalived")
    wait_for_holder(SECOND)
    all_are_kept(held, "client", "backend")
    on(FIRST, "systemctl", "start", "keepalived")
    wait_for_holder(FIRST)
    all_are_kept(held, "client", "busy", "backend", outage_s=KILLED_S[1])
    held.stop()


@whole
def test_an_agent_that_is_killed_comes_back_before_anything_moves() -> None:
    seen: dict[str, Seen] = {}
    with clients("the agent is killed", seen, TARGETS):
        on(FIRST, "systemctl", "kill", "--signal=KILL", "natlb-agent")
        wait_for(lambda: on(FIRST, "natlb", "ready") == "ready\n", "it is not ready")
    wait_for_holder(FIRST)
    assert [one.failed for one in seen.values()] == [0, 0]


@whole
def test_one_that_cannot_serve_gives_them_up() -> None:
    seen: dict[str, Seen] = {}
    with clients("no agent, and the rules are flushed", seen, TARGETS):
        on(FIRST, "sh", "-c", "systemctl stop natlb-agent; nft delete table ip natlb; nft delete table ip6 natlb")
        wait_for_holder(SECOND)
    for one in seen.values():
        assert one.lost < UNREADY_S / attempts.EVERY_S
    seen.clear()
    with clients("it can serve again", seen, TARGETS):
        on(FIRST, "systemctl", "start", "natlb-agent")
        wait_for_holder(FIRST)


@whole
def test_somebody_elses_configuration_stays() -> None:
    file = "/etc/keepalived/keepalived.conf"
    ours = on(SECOND, "cat", file)
    lab.podman("exec", f"natlb-{SECOND}", "sh", "-c", f"sed -i 1d {file}")
    theirs = on(SECOND, "cat", file)
    out = failover()
    assert "somebody else has configured keepalived" in out
    assert out.startswith("exit 2\n")
    failover(natlb_failover_state="absent")
    assert on(SECOND, "cat", file) == theirs != ours
    lab.podman("exec", f"natlb-{SECOND}", "sh", "-c", f"rm {file}")


@whole
def test_a_removal_gives_the_addresses_up() -> None:
    out = failover()
    assert out.startswith("exit 0\n"), out
    assert failover(natlb_failover_state="absent").startswith("exit 0\n")
    assert [holders(address) for address in ADDRESSES] == [[], []]
    assert on(FIRST, "ls", "/etc/keepalived") == on(SECOND, "ls", "/etc/keepalived") == "keepalived.conf.sample\n"
    assert "CHANGED" not in failover(natlb_failover_state="absent")
