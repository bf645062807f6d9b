"""What becomes of the virtual addresses and of new connections, while one of two balancers is killed or cannot serve.

The tests follow upon each other: each begins where the one before has left the addresses.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "lab"))

import attempts  # noqa: E402
import lab  # noqa: E402
import pair  # noqa: E402

ADDRESSES = ("192.0.2.10", "2001:db8:1::10")
FIRST, SECOND = "balancer", "balancer2"
#: Another host takes over when three advertisements are missing (RFC 9568, 6.1), one a second. The last one was sent up
#: to a second before the kill. The rest is for a machine that has more to do.
KILLED_S = (2.0, 6.0)
#: Three bad answers, one every two seconds.
UNREADY_S = 8.0
#: Clients of the service `source`, and what gives the client's host the address of number n.
MORE_CLIENTS = "2001:db8:1::c:"
MORE_ADDRESSES = f"ip address replace {MORE_CLIENTS}$n/64 dev eth0 nodad"
#: Where backends send what they have for clients; it moves along with the addresses.
GATEWAYS = ("10.0.0.10", "2001:db8:2::10")

#: make fleet asks for all of it; make test ends with the kill.
ALL = os.environ.get("NATLB_FLEET") == "full"
#: Of each family, and of each half: those whose client speaks first, and those whose backend does.
HALF = 50 if ALL else 10
#: Those that speak all the time. TCP waits twice as long each time, and so longer than the address takes to move.
BUSY, BUSY_S = 4, 2 * KILLED_S[1]
whole = pytest.mark.skipif(not ALL, reason="make fleet runs it")


SPEAKS = {
    "client": "the client speaks first after it",
    "busy": "the client speaks all the time",
    "backend": "the backend speaks first after it",
}


class Seen(NamedTuple):
    """What a client has seen. The gap is the longest time between the beginnings of two connections that succeeded."""

    opened: int
    failed: int
    gap_s: float


class Client:
    """Opens connections to both addresses while the tests do something."""

    def __init__(self) -> None:
        argv = [
            "podman",
            "exec",
            "--interactive",
            "natlb-client",
            "python3",
            "/lab/attempts.py",
            *ADDRESSES,
            "--port=80",
        ]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=lab.podman_environment()
        )

    def stop(self) -> dict[str, Seen]:
        out, _nothing = self._process.communicate("", timeout=30)
        found = {}
        for address in ADDRESSES:
            rows = [line.split() for line in out.splitlines() if line.split()[0] == address]
            good = sorted(float(began) for _address, began, name in rows if name != "-")
            assert good, f"no connection to {address} succeeded"
            gaps = [later - before for before, later in itertools.pairwise(good)]
            found[address] = Seen(len(good), len(rows) - len(good), max(gaps, default=0.0))
        return found


class Established:
    """Connections that are open while the tests do something: to the service `flow` by IPv4, to `source` by IPv6."""

    def __init__(self, count: int, busy: int) -> None:
        argv = ["podman", "exec", "--interactive", "natlb-client", "python3", "/lab/established.py"]
        argv += [f"{ADDRESSES[0]}:90", f"[{ADDRESSES[1]}]:91", f"--count={count}", f"--busy={busy}"]
        # A flow has a port of its own, so one address will do. A hash of the source needs many.
        on("client", "sh", "-c", f"for n in $(seq 101 {100 + count}); do {MORE_ADDRESSES}; done")
        self._process = subprocess.Popen(
            [*argv, "--sources", "", MORE_CLIENTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=lab.podman_environment(),
        )
        self.answered = self._line()
        self.opened = count * 2

    def _line(self) -> dict[str, float]:
        assert self._process.stdout
        found: dict[str, float] = json.loads(self._process.stdout.readline())
        return found

    def fate(self, group: str, meanwhile: Callable[[], None] = lambda: None) -> dict[str, float]:
        """What became of one of the groups of tests/lab/established.py, by `meanwhile`."""
        assert self._process.stdin
        self._process.stdin.write(f"{group}\n")
        self._process.stdin.flush()
        meanwhile()
        return self._line()

    def stop(self) -> None:
        self._process.communicate("", timeout=30)


@contextlib.contextmanager
def clients(what: str, seen: dict[str, Seen]) -> Iterator[None]:
    """Meanwhile connections are opened, and some more at the end; `seen` is filled with what became of them."""
    client = Client()
    time.sleep(0.5)
    try:
        yield
        time.sleep(1)
    finally:
        seen.update(client.stop())
        told = "; ".join(
            f"{name}: {one.opened} opened, {one.failed} failed, gap {one.gap_s:.2f} s" for name, one in seen.items()
        )
        print(f"figures: {what}: {told}")


def on(host: str, *argv: str) -> str:
    return lab.podman("exec", f"natlb-{host}", *argv, check=False)


def holders(address: str) -> list[str]:
    """The hosts that have an address."""
    return [host for host in (FIRST, SECOND) if f" {address}/" in on(host, "ip", "-oneline", "address", "show", "eth0")]


def wait_for(is_so: Callable[[], bool], what: str, within_s: float = 30.0) -> None:
    give_up = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < give_up, what
        time.sleep(0.1)


def wait_for_holder(host: str) -> None:
    for address in ADDRESSES:
        wait_for(lambda address=address: holders(address) == [host], f"{address} is not on {host} alone")  # type: ignore[misc]


def backends_speak() -> None:
    for web in ("web1", "web2"):
        on(web, "systemctl", "kill", "--signal=USR1", "natlb-identity")


def keepalived(host: str) -> str:
    """What is another one after a restart."""
    return on(host, "systemctl", "show", "keepalived", "--property=MainPID,ExecMainStartTimestampMonotonic,ActiveState")


def reloads(host: str) -> int:
    return on(host, "journalctl", "--unit=keepalived", "--boot", "--no-pager").count("Reloaded ")


def run(program: str, *words: str, **variables: object) -> str:
    """What an operator types. Returns what it printed."""
    argv = [str(pathlib.Path(sys.executable).parent / program), f"--inventory={ROOT}/tests/lab/pair.yml"]
    argv += [f"--extra-vars=@{pathlib.Path(__file__).parent}/vars.yml", f"--extra-vars={json.dumps(variables)}"]
    kept = {key: value for key, value in os.environ.items() if key != "NATLB_RECORD_DIR"}
    done = subprocess.run([*argv, *words], env=kept, capture_output=True, text=True, check=False)
    return f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def converge(**variables: object) -> str:
    out = run("ansible-playbook", str(ROOT / "molecule" / "shared" / "converge.yml"), **variables)
    assert out.startswith("exit 0\n"), out
    return out


def failover(**variables: object) -> str:
    return run(
        "ansible",
        "balancers",
        "--module-name=ansible.builtin.include_role",
        "--args=name=natlb.netfilter.failover",
        **variables,
    )


def test_both_addresses_are_on_one() -> None:
    wait_for(lambda: len(holders(ADDRESSES[0])) == 1 and holders(ADDRESSES[0]) == holders(ADDRESSES[1]), "not on one")
    assert [on(host, "natlb", "ready") for host in (FIRST, SECOND)] == ["ready\n"] * 2
    if holders(ADDRESSES[0]) == [SECOND]:
        # Of two new ones the one has them that was ready first. The tests want to know which.
        on(SECOND, "systemctl", "stop", "keepalived")
        wait_for_holder(FIRST)
        on(SECOND, "systemctl", "start", "keepalived")
    wait_for_holder(FIRST)


def test_services_may_change_without_keepalived() -> None:
    before = {host: (keepalived(host), reloads(host)) for host in (FIRST, SECOND)}
    (web,) = yaml.safe_load((pathlib.Path(__file__).parent / "vars.yml").read_text())["natlb_services"]
    seen: dict[str, Seen] = {}
    with clients("services are changed", seen):
        out = converge(natlb_services=[{**web, "backends": web["backends"][::2]}])
    assert "changed=1 " in out
    assert {host: (keepalived(host), reloads(host)) for host in (FIRST, SECOND)} == before
    assert [one.failed for one in seen.values()] == [0, 0]


def test_a_roll_out_begins_with_the_standby() -> None:
    """And what it cannot serve goes back there, before the balancer with the addresses is touched."""
    before = {host: (keepalived(host), reloads(host)) for host in (FIRST, SECOND)}
    seen: dict[str, Seen] = {}
    with clients("a roll-out", seen):
        out = run("ansible-playbook", "natlb.netfilter.deploy")
    assert out.startswith("exit 0\n"), out
    assert f"\n0 of 2 balancers are done, next: {SECOND}\n" in out
    dead = {"name": "dead", "listen": "192.0.2.10:81", "backends": [{"address": "10.0.0.3", "port": 4}]}
    with clients("one that goes back", seen):
        out = run("ansible-playbook", "natlb.netfilter.deploy", natlb_services_dead=[dead])
    assert out.startswith("exit 2\n"), out
    assert f"{SECOND}: went back to its former rules" in out
    assert "dead" not in "".join(on(host, "natlb", "status") for host in (FIRST, SECOND))
    assert [on(host, "natlb", "ready") for host in (FIRST, SECOND)] == ["ready\n"] * 2
    assert {host: (keepalived(host), reloads(host)) for host in (FIRST, SECOND)} == before
    wait_for_holder(FIRST)
    assert [one.failed for one in seen.values()] == [0, 0]


def test_the_first_one_is_killed() -> None:
    """New connections fail until another one has the addresses. Established ones go on there, though it knows none."""
    for web in ("web1", "web2"):
        for gateway in GATEWAYS:
            on(web, "ip", "route", "replace", "default", "via", gateway)
    held = Established(HALF, BUSY)
    assert set(held.answered) == {"web1", "web2"}
    seen: dict[str, Seen] = {}
    with clients("the balancer is killed", seen):
        lab.podman("kill", f"natlb-{FIRST}")
        wait_for_holder(SECOND)
    fates = {name: held.fate(name) for name in ("client", "busy")}
    fates["backend"] = held.fate("backend", backends_speak)
    held.stop()
    longest_s = {name: fate.pop("longest_s") for name, fate in fates.items()}
    for name, fate in fates.items():
        opened, reset = BUSY * 2 if name == "busy" else held.opened, fate.get("reset", 0)
        told = f"{opened} opened, {fate.get('kept', 0)} kept, {reset} reset, waited up to {longest_s[name]:.2f} s"
        print(f"figures: established, {SPEAKS[name]}: {told}")
    for one in seen.values():
        # One that began shortly before may succeed: its SYN waits while the client still asks who has the address.
        assert KILLED_S[0] - attempts.TIMEOUT_S < one.gap_s < KILLED_S[1]
    assert fates == {"client": {"kept": held.opened}, "busy": {"kept": BUSY * 2}, "backend": {"kept": held.opened}}
    assert longest_s["busy"] < BUSY_S


@whole
def test_it_comes_back_and_takes_nothing() -> None:
    seen: dict[str, Seen] = {}
    with clients("it comes back", seen):
        lab.podman("start", f"natlb-{FIRST}")
        lab.wait_until_booted(next(host for host in pair.HOSTS if host.name == FIRST))
        wait_for(lambda: on(FIRST, "natlb", "ready") == "ready\n", "it is not ready")
        wait_for(
            lambda: "Entering BACKUP STATE" in on(FIRST, "journalctl", "--unit=keepalived", "--boot"), "no standby"
        )
        # As long as another one would take to take over.
        time.sleep(KILLED_S[0] * 2)
        wait_for_holder(SECOND)
    assert [one.failed for one in seen.values()] == [0, 0]


@whole
def test_it_takes_them_back_if_that_is_asked_for() -> None:
    before = keepalived(SECOND), reloads(SECOND)
    seen: dict[str, Seen] = {}
    with clients("it takes them back", seen):
        converge(natlb_failover_preempt=True)
        wait_for_holder(FIRST)
    assert (keepalived(SECOND), reloads(SECOND)) == (before[0], before[1] + 1), "a reload, and no restart"


@whole
def test_an_agent_that_is_killed_comes_back_before_anything_moves() -> None:
    seen: dict[str, Seen] = {}
    with clients("the agent is killed", seen):
        on(FIRST, "systemctl", "kill", "--signal=KILL", "natlb-agent")
        wait_for(lambda: on(FIRST, "natlb", "ready") == "ready\n", "it is not ready")
    wait_for_holder(FIRST)
    assert [one.failed for one in seen.values()] == [0, 0]


@whole
def test_one_that_cannot_serve_gives_them_up() -> None:
    seen: dict[str, Seen] = {}
    with clients("no agent, and the rules are flushed", seen):
        on(FIRST, "sh", "-c", "systemctl stop natlb-agent; nft delete table ip natlb; nft delete table ip6 natlb")
        wait_for_holder(SECOND)
    for one in seen.values():
        assert one.gap_s < UNREADY_S
    seen.clear()
    with clients("it can serve again", seen):
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
