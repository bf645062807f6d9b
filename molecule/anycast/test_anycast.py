"""What becomes of connections, while one of three balancers that a router knows by BGP is taken out, joins, and dies.

The tests follow upon each other: each begins where the one before has left the balancers.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "lab"))

import anycast
import lab

SCENARIO = pathlib.Path(__file__).resolve().parent
ROOT = SCENARIO.parents[1]
FIRST, SECOND, THIRD = anycast.BALANCERS
#: Of each family, and of each half: those whose client speaks first, and those whose backend does.
HALF = 75
MORE_CLIENTS = "2001:db8:1::c:"
CLIENTS = f"for n in $(seq 101 {100 + HALF}); do ip address replace {MORE_CLIENTS}$n/64 dev eth0 nodad; done"


def on(host: str, *argv: str) -> str:
    return lab.podman("exec", f"natlb-{host}", *argv, check=False)


def wait_for(is_so: Callable[[], bool], what: str, within_s: float = 40.0) -> float:
    """How long it took."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() < began + within_s, what
        time.sleep(0.05)
    return time.monotonic() - began


def ways() -> list[set[str]]:
    """The balancers to which the router sends flows, by address."""
    found = []
    for family, address, prefix in (
        ("-4", anycast.ADDRESSES[0], "192.0.2."),
        ("-6", anycast.ADDRESSES[1], "2001:db8:1::"),
    ):
        routes = json.loads(on("router", "ip", family, "-json", "route", "show", address) or "[]")
        hops = [hop["gateway"] for route in routes for hop in route.get("nexthops", [route])]
        found.append({anycast.BALANCERS[int(hop.removeprefix(prefix)) - 2] for hop in hops})
    return found


def wait_for_ways(*names: str) -> float:
    return wait_for(lambda: ways() == [set(names)] * 2, f"the router has other ways than {names}")


class Established:
    """Connections that are open while the tests do something."""

    def __init__(self) -> None:
        on("client", "sh", "-c", CLIENTS)
        argv = ["podman", "exec", "--interactive", "natlb-client", "python3", "/lab/established.py"]
        argv += [f"{anycast.ADDRESSES[0]}:90", f"[{anycast.ADDRESSES[1]}]:91", f"--count={HALF}", "--busy=0"]
        self._process = subprocess.Popen(
            [*argv, "--sources", "", MORE_CLIENTS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=lab.podman_environment(),
        )
        assert set(self._told()) == {"web1", "web2"}

    def _told(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "a connection could not be opened, or had no answer"
        found: dict[str, Any] = json.loads(line)
        return found

    def are_kept(self, what: str) -> None:
        """Whoever speaks first."""
        fates = {}
        for group in ("client", "backend"):
            assert self._process.stdin
            self._process.stdin.write(f"{group}\n")
            self._process.stdin.flush()
            if group == "backend":
                for web in ("web1", "web2"):
                    on(web, "systemctl", "kill", "--signal=USR1", "natlb-identity")
            fates[group] = self._told()
        waited_s = max(fate.pop("longest_s") for fate in fates.values())
        kept = sum(fate.get("kept", 0) for fate in fates.values())
        print(f"figures: {what}: {4 * HALF} established, {kept} kept, waited up to {waited_s:.2f} s")
        assert fates == {group: {"kept": 2 * HALF} for group in fates}

    def stop(self) -> None:
        self._process.communicate("", timeout=30)


@pytest.fixture(scope="module")
def held() -> Iterator[Established]:
    wait_for_ways(*anycast.BALANCERS)
    found = Established()
    yield found
    found.stop()


@contextlib.contextmanager
def new_connections(what: str) -> Iterator[list[float]]:
    """Meanwhile connections are opened; prints what became of them. At the end the list has when those that failed
    began."""
    failed: list[float] = []
    targets = [f"{anycast.ADDRESSES[0]}:80", f"[{anycast.ADDRESSES[1]}]:80"]
    argv = ["podman", "exec", "--interactive", "natlb-client", "python3", "/lab/attempts.py", *targets]
    # A pipe that nobody reads would hold the client up.
    with tempfile.TemporaryFile("w+") as told:
        client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=told, env=lab.podman_environment())
        time.sleep(0.5)
        try:
            yield failed
            time.sleep(1)
        finally:
            client.communicate(b"", timeout=30)
            told.seek(0)
            rows = [line.split() for line in told]
            failed += [float(began) for _address, began, name in rows if name == "-"]
            during_s = max(failed) - min(failed) if failed else 0.0
            print(f"figures: {what}: {len(rows)} new connections, {len(failed)} failed, over {during_s:.2f} s")
    assert rows, "nobody has tried"


def bird(host: str) -> str:
    """What is another one after a restart. Since when its sessions are would tell of a machine, too, that has stood
    still for longer than BFD waits; that no connection is lost tells of sessions that end."""
    return on(host, "systemctl", "show", "bird", "natlb-anycast", "--property=MainPID,ExecMainStartTimestampMonotonic")


def run(program: str, *words: str, **variables: object) -> str:
    argv = [str(pathlib.Path(sys.executable).parent / program), f"--inventory={ROOT}/tests/lab/anycast.yml"]
    argv += [f"--extra-vars=@{SCENARIO}/vars.yml", f"--extra-vars={json.dumps(variables)}"]
    kept = {key: value for key, value in os.environ.items() if key != "NATLB_RECORD_DIR"}
    done = subprocess.run([*argv, *words], env=kept, capture_output=True, text=True, check=False)
    return f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def role(name: str, **variables: object) -> str:
    words = ("--module-name=ansible.builtin.include_role", f"--args=name=natlb.netfilter.{name}")
    return run("ansible", "web" if name == "return_path" else "balancers", *words, **variables)


def test_all_of_them_are_announced(held: Established) -> None:
    held.are_kept("three balancers")
    for host in anycast.BALANCERS:
        assert on(host, "sysctl", "-n", "net.netfilter.nf_conntrack_tcp_be_liberal") == "1\n"


def test_services_may_change_without_new_sessions(held: Established) -> None:
    before = {host: bird(host) for host in anycast.BALANCERS}
    more = {"name": "more", "listen": "203.0.113.11:80", "backends": [{"address": "10.0.0.3", "port": 9000}]}
    playbook = str(ROOT / "molecule" / "shared" / "converge.yml")
    out = run("ansible-playbook", playbook, natlb_services_more=[more])
    assert out.startswith("exit 0\n"), out
    wait_for(lambda: "203.0.113.11" in on("router", "ip", "route"), "the router does not know the new address")
    assert {host: bird(host) for host in anycast.BALANCERS} == before
    held.are_kept("a service was added")
    out = run("ansible-playbook", playbook)
    assert out.startswith("exit 0\n"), out
    wait_for(lambda: "203.0.113.11" not in on("router", "ip", "route"), "the router still knows the address")
    assert {host: bird(host) for host in anycast.BALANCERS} == before


def test_one_leaves_and_joins(held: Established) -> None:
    with new_connections("one leaves") as failed:
        on(THIRD, "natlb", "leave", "--reason", "kernel update")
        print(f"figures: natlb leave: withdrawn after {wait_for_ways(FIRST, SECOND):.2f} s")
        held.are_kept("one leaves")
    assert not failed
    with new_connections("it joins") as failed:
        on(THIRD, "natlb", "join")
        print(f"figures: natlb join: announced after {wait_for_ways(*anycast.BALANCERS):.2f} s")
        held.are_kept("it joins")
    assert not failed


def test_its_watch_is_killed(held: Established) -> None:
    pid = on(FIRST, "systemctl", "show", "natlb-anycast", "--property=MainPID", "--value").strip()
    on(FIRST, "kill", "-KILL", pid)
    unit = ("systemctl", "show", "natlb-anycast", "--property=NRestarts", "--value")
    wait_for(lambda: on(FIRST, *unit).strip() == "1", "nobody has started it anew")
    assert ways() == [set(anycast.BALANCERS)] * 2
    held.are_kept("the watch is killed")


def test_one_is_killed(held: Established) -> None:
    with new_connections("one is killed"):
        lab.podman("kill", f"natlb-{SECOND}")
        print(f"figures: killed: withdrawn after {wait_for_ways(FIRST, THIRD):.2f} s")
    held.are_kept("one is killed")


def test_it_comes_back(held: Established) -> None:
    with new_connections("it comes back"):
        lab.podman("start", f"natlb-{SECOND}")
        lab.wait_until_booted(next(host for host in anycast.HOSTS if host.name == SECOND))
        wait_for_ways(*anycast.BALANCERS)
    held.are_kept("it comes back")


def test_rules_of_a_backend_that_others_flush_come_back(held: Established) -> None:
    assert "ip natlb_return" in on("web1", "nft", "list", "tables")
    on(
        "web1",
        "sh",
        "-c",
        "printf '#!/usr/sbin/nft -f\\nflush ruleset\\n' > /etc/nftables.conf; systemctl start nftables",
    )
    on("web1", "systemctl", "reload", "nftables")
    wait_for(lambda: "ip natlb_return" in on("web1", "nft", "list", "tables"), "nobody puts them back")
    held.are_kept("a backend's rules were flushed")


def test_somebody_elses_configuration_stays() -> None:
    file = "/etc/bird/bird.conf"
    ours = on(FIRST, "cat", file)
    lab.podman("exec", f"natlb-{FIRST}", "sed", "-i", "1d", file)
    theirs = on(FIRST, "cat", file)
    out = role("anycast")
    assert "somebody else has configured BIRD" in out
    assert out.startswith("exit 2\n")
    assert on(FIRST, "cat", file) == theirs
    lab.podman(
        "exec",
        f"natlb-{FIRST}",
        "sh",
        "-c",
        f"printf '%s\\n' {json.dumps(ours.splitlines()[0])} | cat - {file} > /tmp/b; cat /tmp/b > {file}",
    )
    assert on(FIRST, "cat", file) == ours


def test_a_removal_withdraws_all() -> None:
    services = yaml.safe_load((SCENARIO / "vars.yml").read_text())["natlb_services"]
    assert services
    out = role("anycast", natlb_anycast_state="absent")
    assert out.startswith("exit 0\n"), out
    assert ways() == [set(), set()]
    for host in anycast.BALANCERS:
        assert "203.0.113" not in on(host, "ip", "address", "show", "dev", "lo")
        assert on(host, "sh", "-c", "ls /etc/natlb-anycast* /usr/local/sbin/natlb-anycast /etc/bird/bird.conf") == ""
    assert "CHANGED" not in role("anycast", natlb_anycast_state="absent")
    out = role("return_path", natlb_return_state="absent")
    assert out.startswith("exit 0\n"), out
    for web in ("web1", "web2"):
        assert "natlb_return" not in on(web, "nft", "list", "tables")
        assert "fwmark" not in on(web, "ip", "rule") + on(web, "ip", "-6", "rule")
