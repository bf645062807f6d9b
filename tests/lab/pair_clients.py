"""What tests of two balancers that share virtual addresses do, and what their clients see. For molecule/pair*."""

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

import attempts
import lab
import pair

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Whose variables they are: molecule says it.
SCENARIO = os.environ["MOLECULE_SCENARIO_DIRECTORY"]

ADDRESSES = ("192.0.2.10", "2001:db8:1::10")
FIRST, SECOND = "balancer", "balancer2"
#: Another host takes over when three advertisements are missing (RFC 9568, 6.1), one a second. The last one was sent up
#: to a second before the kill. The rest is for a machine that has more to do.
KILLED_S = (2.0, 6.0)
#: Further addresses of the client's host, and what gives it that of number n.
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
        line = self._process.stdout.readline()
        assert line, "a connection could not be opened, or had no answer"
        found: dict[str, float] = json.loads(line)
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
    """What an operator types, with the variables of this scenario. Returns what it printed."""
    argv = [str(pathlib.Path(sys.executable).parent / program), f"--inventory={ROOT}/tests/lab/pair.yml"]
    argv += [f"--extra-vars=@{SCENARIO}/vars.yml", f"--extra-vars={json.dumps(variables)}"]
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


def settle() -> None:
    """Of two new ones the one has the addresses that was ready first. The tests want to know which."""
    wait_for(lambda: len(holders(ADDRESSES[0])) == 1 and holders(ADDRESSES[0]) == holders(ADDRESSES[1]), "not on one")
    assert [on(host, "natlb", "ready") for host in (FIRST, SECOND)] == ["ready\n"] * 2
    if holders(ADDRESSES[0]) == [SECOND]:
        on(SECOND, "systemctl", "stop", "keepalived")
        wait_for_holder(FIRST)
        on(SECOND, "systemctl", "start", "keepalived")
    wait_for_holder(FIRST)


def kill(host: str, heir: str) -> None:
    """With all its processes. New connections fail until the other one has the addresses."""
    seen: dict[str, Seen] = {}
    with clients("the balancer is killed", seen):
        lab.podman("kill", f"natlb-{host}")
        wait_for_holder(heir)
    for one in seen.values():
        # One that began shortly before may succeed: its SYN waits while the client still asks who has the address.
        assert KILLED_S[0] - attempts.TIMEOUT_S < one.gap_s < KILLED_S[1]


def all_are_kept(held: Established, *groups: str) -> None:
    """Of these groups, whose connections went through a balancer that is no more."""
    fates = {name: held.fate(name, backends_speak if name == "backend" else lambda: None) for name in groups}
    longest_s = {name: fate.pop("longest_s") for name, fate in fates.items()}
    opened = {name: BUSY * 2 if name == "busy" else held.opened for name in groups}
    for name, fate in fates.items():
        told = f"{opened[name]} opened, {fate.get('kept', 0)} kept, {fate.get('reset', 0)} reset"
        print(f"figures: established, {SPEAKS[name]}: {told}, waited up to {longest_s[name]:.2f} s")
    assert fates == {name: {"kept": opened[name]} for name in groups}
    assert longest_s.get("busy", 0.0) < BUSY_S


def come_back(host: str) -> None:
    """Until it is ready, and has left the addresses where they are."""
    lab.podman("start", f"natlb-{host}")
    lab.wait_until_booted(next(one for one in pair.HOSTS if one.name == host))
    wait_for(lambda: on(host, "natlb", "ready") == "ready\n", "it is not ready")
    wait_for(lambda: "Entering BACKUP STATE" in on(host, "journalctl", "--unit=keepalived", "--boot"), "no standby")
