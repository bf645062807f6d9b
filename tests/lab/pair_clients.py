"""What tests of two balancers that share virtual addresses do, and what their clients see. For molecule/pair*."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import attempts
import lab
import pair

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Whose variables they are: molecule says it.
SCENARIO = os.environ["MOLECULE_SCENARIO_DIRECTORY"]

ADDRESSES = ("192.0.2.10", "2001:db8:1::10")
#: What clients connect to while something happens.
TARGETS = (f"{ADDRESSES[0]}:80", f"[{ADDRESSES[1]}]:80")
#: Services to which their connections stay open.
KEPT = (f"{ADDRESSES[0]}:90", f"[{ADDRESSES[1]}]:91")
FIRST, SECOND = "balancer", "balancer2"
#: Another host takes over when three advertisements are missing, one a second, and a part of one that its priority says
#: (RFC 9568, 6.1). The last one was sent up to a second before the kill.
KILLED_S = (2.0, 4.0)
#: As many attempts at each target may fail in a row. On a machine that stands still, nobody begins any: so they are
#: counted, and not the seconds. The client's host, which does not have to notice anything, may be quicker by half.
LOST = int(1.5 * KILLED_S[1] / attempts.EVERY_S)
#: Where nothing has happened, as many may fail in a row: those that were under way when the machine stood still for
#: longer than they have. Balancers forward, and backends open, in the kernel and in the time of whoever sends: so the
#: client alone has to be run for that. The death of a balancer costs three times as many at least (`KILLED_S`).
STILL = int(attempts.TIMEOUT_S / attempts.EVERY_S) + 1
#: Further addresses of the client's host, and what gives it that of number n.
MORE_CLIENTS = "2001:db8:1::c:"
MORE_ADDRESSES = f"ip address replace {MORE_CLIENTS}$n/64 dev eth0 nodad"
#: Where backends send what they have for clients; it moves along with the addresses.
GATEWAYS = ("10.0.0.10", "2001:db8:2::10")
#: make fleet asks for all of it; make test ends with the kill.
ALL = os.environ.get("NATLB_FLEET") == "full"
#: Of each family, and of each half: those whose client speaks first, and those whose backend does.
HALF = 50 if ALL else 10
#: Those that speak all the time.
BUSY = 4

SPEAKS = {
    "client": "the client speaks first after it",
    "busy": "the client speaks all the time",
    "backend": "the backend speaks first after it",
}


class Seen(NamedTuple):
    """What a client has seen. The gap is the longest time between the beginnings of two connections that succeeded, and
    `lost` how many failed in a row."""

    opened: int
    failed: int
    gap_s: float
    lost: int


def notice_nothing(*some: Seen) -> None:
    """These clients have lost nothing, or what a machine that stands still costs."""
    assert max(one.lost for one in some) <= STILL, some


class Client:
    """Opens connections to all targets while the tests do something."""

    def __init__(self, targets: Sequence[str]) -> None:
        self._targets = targets
        argv = ["podman", "exec", "--interactive", "natlb-client", "python3", "/lab/attempts.py", *targets]
        # Of a pipe that nobody reads, the client would wait for room.
        self._told = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=self._told, text=True, env=lab.podman_environment()
        )

    def stop(self) -> dict[str, Seen]:
        self._process.communicate("", timeout=30)
        with self._told:
            self._told.seek(0)
            out = self._told.read()
        found = {}
        for target in self._targets:
            rows = [line.split() for line in out.splitlines() if line.split()[0] == target]
            tried = sorted((float(began), name != "-") for _target, began, name in rows)
            good = [began for began, succeeded in tried if succeeded]
            assert good, f"no connection to {target} succeeded"
            gaps = [later - before for before, later in itertools.pairwise(good)]
            lost = [
                len(list(some)) for succeeded, some in itertools.groupby(tried, lambda one: one[1]) if not succeeded
            ]
            found[target] = Seen(len(good), len(rows) - len(good), max(gaps, default=0.0), max(lost, default=0))
        return found


class Established:
    """Connections that are open while the tests do something."""

    def __init__(self, count: int, busy: int, targets: Sequence[str] = KEPT) -> None:
        argv = ["podman", "exec", "--interactive", "natlb-client", "python3", "/lab/established.py"]
        argv += [*targets, f"--count={count}", f"--busy={busy}"]
        # A flow has a port of its own, so one address will do. A hash of the source needs many.
        on("client", "sh", "-c", f"for n in $(seq 101 {100 + count}); do {MORE_ADDRESSES}; done")
        sources = [MORE_CLIENTS if target.startswith("[") else "" for target in targets]
        self._process = subprocess.Popen(
            [*argv, "--sources", *sources],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=lab.podman_environment(),
        )
        self.answered = self._line()
        self.opened, self.busy = count * len(targets), busy * len(targets)

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
def clients(what: str, seen: dict[str, Seen], targets: Sequence[str] = TARGETS) -> Iterator[None]:
    """Meanwhile connections are opened, and some more at the end; `seen` is filled with what became of them."""
    client = Client(targets)
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
    """Of two new ones the one has the addresses that was ready first. The tests want to know which. Whoever was killed
    by a test that has failed is started again."""
    for host in (FIRST, SECOND):
        lab.podman("start", f"natlb-{host}")
    wait_for(lambda: len(holders(ADDRESSES[0])) == 1 and holders(ADDRESSES[0]) == holders(ADDRESSES[1]), "not on one")
    for host in (FIRST, SECOND):
        wait_for(lambda host=host: on(host, "natlb", "ready") == "ready\n", f"{host} is not ready")  # type: ignore[misc]
    if holders(ADDRESSES[0]) == [SECOND]:
        on(SECOND, "systemctl", "stop", "keepalived")
        wait_for_holder(FIRST)
        on(SECOND, "systemctl", "start", "keepalived")
    wait_for_holder(FIRST)


def kill(host: str, heir: str, what: str = "the balancer is killed", targets: Sequence[str] = TARGETS) -> float:
    """With all its processes. New connections fail until the other one has the addresses. Returns for how long."""
    seen: dict[str, Seen] = {}
    with clients(what, seen, targets):
        lab.podman("kill", f"natlb-{host}")
        wait_for_holder(heir)
    for one in seen.values():
        # One that began shortly before may succeed: its SYN waits while the client still asks who has the address.
        assert one.gap_s > KILLED_S[0] - attempts.TIMEOUT_S
        assert one.lost < LOST
    return max(one.gap_s for one in seen.values())


def all_are_kept(held: Established, *groups: str, outage_s: float = 0.0) -> None:
    """Of these groups, whose connections may have to go through another balancer. TCP waits twice as long each time, so
    those that spoke during an outage wait up to twice as long, and up to its longest first time-out (RFC 6298)."""
    found = {name: held.fate(name, backends_speak if name == "backend" else lambda: None) for name in groups}
    opened = {name: held.busy if name == "busy" else held.opened for name in groups}
    for name, fate in found.items():
        hows = ("kept", "reset", *sorted(set(fate) - {"kept", "reset", "longest_s"}))
        told = ", ".join(f"{fate.get(how, 0)} {how}" for how in hows)
        print(
            f"figures: established, {SPEAKS[name]}: {opened[name]} opened, {told}, up to {fate['longest_s']:.2f} s late"
        )
    longest_s = {name: fate.pop("longest_s") for name, fate in found.items()}
    assert found == {name: {"kept": opened[name]} for name in groups}
    assert longest_s.get("busy", 0.0) < 2 * outage_s + 1


def come_back(host: str) -> None:
    """Until it is ready, and has left the addresses where they are."""
    lab.podman("start", f"natlb-{host}")
    lab.wait_until_booted(next(one for one in pair.HOSTS if one.name == host))
    wait_for(lambda: on(host, "natlb", "ready") == "ready\n", "it is not ready")
    wait_for(lambda: "Entering BACKUP STATE" in on(host, "journalctl", "--unit=keepalived", "--boot"), "no standby")
