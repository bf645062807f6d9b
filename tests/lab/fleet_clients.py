"""What tests of several balancers do, and what their clients see: molecule/pair*, active_active, anycast, rollout."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import attempts
import lab
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
#: Whose inventory and variables they are: molecule says it.
SCENARIO = pathlib.Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])

#: Where nothing has happened, as many may fail in a row: those that were under way when the machine stood still for
#: longer than they have. Balancers forward, and backends open, in the kernel and in the time of whoever sends: so the
#: client alone has to be run for that. The death of one of a pair costs three times as many at least (`KILLED_S`).
STILL = int(attempts.TIMEOUT_S / attempts.EVERY_S) + 1
#: Further addresses of the client's host, and what gives it that of number n.
MORE_CLIENTS = "2001:db8:1::c:"
MORE_ADDRESSES = f"ip address replace {MORE_CLIENTS}$n/64 dev eth0 nodad"
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
    """What a client has seen. The gap is the longest time between the beginnings of two connections that succeeded,
    `lost` how many failed in a row, and `when` the moments at which those that failed began."""

    opened: int
    failed: int
    gap_s: float
    lost: int
    when: tuple[float, ...]


def notice_nothing(*some: Seen) -> None:
    """These clients have lost nothing, or what a machine that stands still costs."""
    assert max(one.lost for one in some) <= STILL, some


def alone(seen: Mapping[str, Seen]) -> dict[str, int]:
    """How many failed to each target while those to another one succeeded. What fails to all targets at one moment, be
    it a moment of a machine that stands still, is not the doing of a balancer that one of them leads to."""

    def failed(one: Seen, at: float) -> bool:
        return any(abs(at - when) <= attempts.TIMEOUT_S for when in one.when)

    return {
        target: sum(not all(failed(other, at) for other in seen.values()) for at in one.when)
        for target, one in seen.items()
    }


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
            bad = tuple(began for began, succeeded in tried if not succeeded)
            found[target] = Seen(len(good), len(bad), max(gaps, default=0.0), max(lost, default=0), bad)
        return found


class Established:
    """Connections that are open while the tests do something."""

    def __init__(self, count: int, busy: int, targets: Sequence[str]) -> None:
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
def clients(what: str, seen: dict[str, Seen], targets: Sequence[str]) -> Iterator[None]:
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


def wait_for(is_so: Callable[[], bool], what: str, within_s: float = 30.0) -> float:
    """For how long it did."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() < began + within_s, what
        time.sleep(0.05)
    return time.monotonic() - began


def backends_speak() -> None:
    for name in sorted(lab.containers()):
        if name.startswith("natlb-web"):
            on(name.removeprefix("natlb-"), "systemctl", "kill", "--signal=USR1", "natlb-identity")


def _arguments() -> list[str]:
    """Those of Ansible with which molecule has made this scenario: its inventory, and its variables."""
    given = yaml.safe_load((SCENARIO / "molecule.yml").read_text())["ansible"]["executor"]["args"]["ansible_playbook"]
    return [os.path.expandvars(word) for word in given if word != "--diff"]


def run(program: str, *words: str, **variables: object) -> str:
    """What an operator types, with the inventory and the variables of this scenario. Returns what it printed."""
    argv = [str(pathlib.Path(sys.executable).parent / program), *_arguments(), f"--extra-vars={json.dumps(variables)}"]
    kept = {key: value for key, value in os.environ.items() if key != "NATLB_RECORD_DIR"}
    done = subprocess.run([*argv, *words], env=kept, capture_output=True, text=True, check=False)
    return f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def role(name: str, hosts: str = "balancers", **variables: object) -> str:
    words = ("--module-name=ansible.builtin.include_role", f"--args=name=natlb.netfilter.{name}")
    return run("ansible", hosts, *words, **variables)


def converge(**variables: object) -> str:
    out = run("ansible-playbook", str(ROOT / "molecule" / "shared" / "converge.yml"), **variables)
    assert out.startswith("exit 0\n"), out
    return out


def all_are_kept(held: Established, *groups: str, outage_s: float = 0.0, what: str = "") -> None:
    """Of these groups, whose connections may have to go through another balancer. TCP waits twice as long each time, so
    those that spoke during an outage wait up to twice as long, and up to its longest first time-out (RFC 6298)."""
    found = {name: held.fate(name, backends_speak if name == "backend" else lambda: None) for name in groups}
    opened = {name: held.busy if name == "busy" else held.opened for name in groups}
    for name, fate in found.items():
        hows = ("kept", "reset", *sorted(set(fate) - {"kept", "reset", "longest_s"}))
        told = ", ".join(f"{fate.get(how, 0)} {how}" for how in hows)
        print(
            f"figures: {what and what + ': '}established, {SPEAKS[name]}: {opened[name]} opened, {told}, "
            f"up to {fate['longest_s']:.2f} s late"
        )
    longest_s = {name: fate.pop("longest_s") for name, fate in found.items()}
    assert found == {name: {"kept": opened[name]} for name in groups}
    assert longest_s.get("busy", 0.0) < 2 * outage_s + 1
