# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run costs: time and memory, by number of services and engine, beside what one would type otherwise.

Each round runs in namespaces of its own, and every operation in a process of its own, as a module does: the time
includes the start of Python and the import of the core. Operations of one round follow each other, so a slow moment of
the machine meets all of them; the median of the rounds is shown with its spread.

    tools/run python tests/bench/control_plane.py [--sizes 1,10,100,1000,10000] [--rounds 5] [--write]

Not part of `make test`: nothing here fails because a machine is slow.
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import memory
import report

#: The core of this checkout.
CORE = report.ROOT / "plugins" / "module_utils"
ENGINES = [("nftables", None), ("iptables", "nft"), ("iptables", "legacy")]
FIRST, DRAINED = "first apply", "one drained"
OPERATIONS = [FIRST, "no change", DRAINED, "one added", "1 % changed"]
LOOP_RULES = 20
#: How often the memory of all processes is added up.
SAMPLE_S = 0.02
RULES_PER_SERVICE = 5
PLAYBOOK = "playbook of one task"
FLAT = {variant: f"`iptables-restore` of a flat file ({variant})" for variant in ("nft", "legacy")}

#: Runs in the namespace: one apply, with the time that the kernel's transaction took of it, and the peak memory.
CHILD = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
request = json.load(sys.stdin)
from pathlib import Path
try:
    from _natlb.host import processes, store
    from _natlb.plan.balance import balance
except ImportError:  # before the core had wings (`before.py`)
    from _natlb import kernel as processes, store
    from _natlb.apply import balance
spent = [0.0]
def timed(function):
    def call(*args):
        began = time.perf_counter()
        try:
            return function(*args)
        finally:
            spent[0] += time.perf_counter() - began
    return call
runner = "run_commands" if hasattr(processes, "run_commands") else "carry"  # its former name (`before.py`)
setattr(processes, runner, timed(getattr(processes, runner)))
paths = store.Paths(Path(request["etc"]), Path(request["run"]))
outcome = balance(request["services"], engine=request["engine"], iptables_variant=request["variant"], paths=paths)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"changed": outcome.changed, "kernel_s": spent[0], "peak_kib": peak}))
"""


def services(
    count: int, drained: bool = False, added: int = 0, changed: int = 0, method: str = "round_robin"
) -> list[dict[str, Any]]:
    """`count` services with four backends each; some of them different from the plain ones."""
    listed = []
    for i in range(count + added):
        backends: list[dict[str, Any]] = [{"address": f"10.0.{i % 250}.{k + 3}", "port": 8080} for k in range(4)]
        if drained and i == count // 2:
            backends[1]["state"] = "drained"
        if i < changed:
            backends[0]["weight"] = 2
        listen = f"198.18.{i // 250}.{i % 250 + 1}:80"
        listed.append({"name": f"s{i}", "listen": listen, "method": method, "backends": backends})
    return listed


def declarations(count: int, method: str = "round_robin") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    plain = services(count, method=method)
    yield FIRST, plain
    yield "no change", plain
    yield DRAINED, services(count, drained=True, method=method)
    yield "one added", services(count, drained=True, added=1, method=method)
    yield "1 % changed", services(count, drained=True, added=1, changed=max(1, count // 100), method=method)


class Namespace:
    """A host of its own, as far as the network, /etc and /run go. It ends with the benchmark, however that does."""

    #: A host has more than lo. What is written to /etc stays in memory. The machine's own is seen below it.
    OWN_FOLDERS = (
        "mount -t tmpfs natlb /run && mkdir /run/upper /run/work && "
        "mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work natlb /etc && "
        "mount -t tmpfs natlb /usr/local/sbin && "
        "ip link add nic0 type veth peer name nic1 && echo ready && exec cat"
    )

    def __enter__(self) -> Namespace:
        argv = ["unshare", "--net", "--mount", "sh", "-c", self.OWN_FOLDERS]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        if self.process.stdout.readline() != b"ready\n":
            raise SystemExit("a host of its own needs root, and a kernel with overlay file systems")
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.communicate()

    def run(self, *argv: str, text: str = "", env: Mapping[str, str] | None = None) -> str:
        command = ["nsenter", f"--target={self.process.pid}", "--net", "--mount", *argv]
        settings = {**os.environ, **(env or {})}
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False, env=settings)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv[:3])}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout


def one_round(
    count: int, engine: str, variant: str | None, core: pathlib.Path = CORE, method: str = "round_robin"
) -> dict[str, dict[str, float]]:
    """Seconds in all, seconds in the kernel's transaction and KiB, by operation."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, Namespace() as namespace:
        for operation, declared in declarations(count, method):
            request = {"services": declared, "engine": engine, "variant": variant}
            request |= {"etc": f"{folder}/etc", "run": f"{folder}/run"}
            began = time.perf_counter()
            answer = namespace.run(
                sys.executable, "-c", CHILD, str(core), text=json.dumps(request), env=_compiled_in(folder)
            )
            seconds = time.perf_counter() - began
            told = json.loads(answer)
            assert told["changed"] == (operation != "no change"), (operation, told)
            found[operation] = {"all_s": seconds, "kernel_s": told["kernel_s"], "peak_kib": told["peak_kib"]}
    return found


def _compiled_in(folder: str) -> dict[str, str]:
    """What is compiled in the first run is there for those that follow, as that of a module (`host/archive.py`)."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}


def flat_restore(count: int, variant: str) -> float:
    """Seconds to load the same services as a flat file: a chain of nth rules per service, one rule each to find it."""
    lines = ["*nat", ":PREROUTING ACCEPT [0:0]"]
    lines += [f":S{i} - [0:0]" for i in range(count)]
    for i, service in enumerate(services(count)):
        address = service["listen"].split(":")[0]
        lines.append(f"-A PREROUTING -d {address} -p tcp --dport 80 -j S{i}")
        for k, backend in enumerate(service["backends"]):
            turn = f"-m statistic --mode nth --every {4 - k} --packet 0 " if k < 3 else ""
            lines.append(f"-A S{i} -p tcp {turn}-j DNAT --to-destination {backend['address']}:8080")
    text = "\n".join([*lines, "COMMIT", ""])
    with Namespace() as namespace:
        began = time.perf_counter()
        namespace.run(f"iptables-{variant}-restore", text=text)
        return time.perf_counter() - began


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - natlb.netfilter.balancer:
        services: "{{ services }}"
        engine: nftables
"""
LOOP = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.iptables:
        table: nat
        chain: PREROUTING
        protocol: tcp
        destination: "198.18.0.{{ item }}"
        destination_port: "80"
        jump: DNAT
        to_destination: "10.0.0.3:8080"
      loop: "{{ range(1, rules + 1) | list }}"
"""


@dataclass(frozen=True)
class Spent:
    """Seconds of the clock, and of all processors together."""

    all_s: float
    cpu_s: float


def playbook(
    namespace: Namespace, play: str, variables: dict[str, Any], collections: pathlib.Path | None = None
) -> Spent:
    """What ansible-playbook takes, all in all; with `collections` in another folder than the usual one."""
    with tempfile.TemporaryDirectory() as folder:
        path, values = pathlib.Path(folder) / "play.yml", pathlib.Path(folder) / "values.json"
        path.write_text(play)
        values.write_text(json.dumps({**variables, "ansible_python_interpreter": sys.executable}))
        env = {"ANSIBLE_COLLECTIONS_PATH": str(collections)} if collections else {}
        began, before_s = time.perf_counter(), processors_s()
        namespace.run("ansible-playbook", "--inventory=localhost,", f"--extra-vars=@{values}", str(path), env=env)
        return Spent(time.perf_counter() - began, processors_s() - before_s)


def processors_s() -> float:
    """What processes that have ended since, and theirs, have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def playbook_round(count: int, collections: pathlib.Path | None = None) -> dict[str, Spent]:
    """What a play with one task takes, by operation."""
    with Namespace() as namespace:
        return {
            operation: playbook(namespace, PLAY, {"services": declared}, collections)
            for operation, declared in declarations(count)
        }


def loop_of_single_rules() -> float:
    """Seconds per rule of ansible.builtin.iptables in a loop. It has no `statistic`, so these are plain DNAT rules."""
    with Namespace() as namespace:
        one, many = (playbook(namespace, LOOP, {"rules": rules}).all_s for rules in (1, LOOP_RULES))
    return (many - one) / (LOOP_RULES - 1)


# -- the report ------------------------------------------------------------------------------------------------------


@dataclass
class Results:
    """What all rounds found, by (contestant, operation, number of services)."""

    seconds: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    kernel_s: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    peak_mib: dict[tuple[str, str, int], list[float]] = field(default_factory=dict)
    rule_s: list[float] = field(default_factory=list)
    #: Of all processes together, by engine, with the largest number of services.
    all_peak_mib: dict[str, float] = field(default_factory=dict)

    def over_sizes(self, contestant: str, operation: str) -> dict[float, report.Rounds]:
        return {
            count: _rounds(values)
            for (who, what, count), values in self.seconds.items()
            if (who, what) == (contestant, operation)
        }


def _rounds(values: list[float]) -> report.Rounds:
    return report.Rounds(tuple(values))


def _name(engine: str, variant: str | None) -> str:
    return f"{engine} ({variant})" if variant else engine


def measure(sizes: list[int], rounds: int) -> Results:
    """All contestants take turns in every round."""
    found = Results()
    for count, number in itertools.product(sizes, range(1, rounds + 1)):
        for engine, variant in ENGINES:
            for operation, cost in one_round(count, engine, variant).items():
                key = (_name(engine, variant), operation, count)
                found.seconds.setdefault(key, []).append(cost["all_s"])
                found.kernel_s.setdefault(key, []).append(cost["kernel_s"])
                found.peak_mib.setdefault(key, []).append(cost["peak_kib"] / 1024)
        for operation, spent in playbook_round(count).items():
            found.seconds.setdefault((PLAYBOOK, operation, count), []).append(spent.all_s)
        for variant, name in FLAT.items():
            found.seconds.setdefault((name, FIRST, count), []).append(flat_restore(count, variant))
        print(f"{count} services: round {number} of {rounds}", file=sys.stderr, flush=True)
    found.rule_s = [loop_of_single_rules() for _round in range(rounds)]
    for engine, variant in ENGINES:
        with memory.watched(lambda: memory.descendants(os.getpid()), SAMPLE_S) as peak:
            one_round(max(sizes), engine, variant)
        found.all_peak_mib[_name(engine, variant)] = peak.mib
    return found


def table(found: Results, sizes: list[int]) -> list[str]:
    rows = []
    for count, (engine, variant) in itertools.product(sizes, ENGINES):
        name = _name(engine, variant)
        keys = [(name, operation, count) for operation in OPERATIONS]
        cells = [_rounds(found.seconds[key]).shown() for key in keys]
        cells.append(_rounds(found.kernel_s[(name, DRAINED, count)]).shown(3))
        cells.append(f"{max(max(found.peak_mib[key]) for key in keys):.0f}")
        rows.append([f"{count:,}", name, *cells])
    head = [
        "services of 4",
        "engine",
        *OPERATIONS,
        "of it the kernel's transactions, one drained",
        "peak memory of the module, MiB",
    ]
    return report.table(head, rows)


def all_memory(found: Results, sizes: list[int]) -> list[str]:
    peaks = ", ".join(f"{mib:.0f} MiB with {name}" for name, mib in found.all_peak_mib.items())
    return [
        f"With {max(sizes):,} services all processes of a run together, the programs that the module starts included,",
        f"have {peaks} at most (PSS, looked at every {SAMPLE_S * 1000:.0f} ms in a round that is not timed).",
    ]


def other_means(found: Results, sizes: list[int]) -> list[str]:
    rows = []
    for count in sizes:
        flat = [_rounds(found.seconds[(name, FIRST, count)]).shown() for name in FLAT.values()]
        plays = [_rounds(found.seconds[(PLAYBOOK, operation, count)]).shown() for operation in OPERATIONS[:3]]
        rows.append([f"{count:,}", *plays, *flat])
    heads = [f"{PLAYBOOK}, {operation}" for operation in OPERATIONS[:3]]
    return report.table(["services of 4", *heads, *FLAT.values()], rows)


def loop(found: Results, sizes: list[int]) -> list[str]:
    """What the loop would take, beside a play with one task of ours."""
    rule = _rounds(found.rule_s)
    count = max(size for size in sizes if size <= 1000)
    ours = _rounds(found.seconds[(PLAYBOOK, FIRST, count)]).median
    all_s = rule.median * RULES_PER_SERVICE * count
    return [
        f"`ansible.builtin.iptables` in a loop takes {rule.shown()} s a rule ({LOOP_RULES} rules measured), and cannot",
        f"express the choice of a backend. At {RULES_PER_SERVICE} rules a service (one to find it, one for each",
        f"backend), {count:,} services would take {all_s:,.0f} s, {all_s / ours:,.0f} times as long as the play with",
        "one task of `natlb.netfilter.balancer`.",
    ]


def plot(found: Results) -> str:
    title = "What a run costs"
    lines = {f"nftables, {operation}": found.over_sizes("nftables", operation) for operation in OPERATIONS[:3]}
    lines |= {
        f"{_name(*engine)}, {FIRST}": found.over_sizes(_name(*engine), FIRST)
        for engine in ENGINES
        if engine[1] is not None
    }
    lines |= {name: found.over_sizes(name, FIRST) for name in [*FLAT.values()]}
    return report.plot_lines("control-plane", title, ("services of 4 backends", "seconds"), lines, logarithmic=True)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--sizes", default="1,10,100,1000,10000")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    found = measure(sizes, options.rounds)
    head = f"Measured on {report.machine()}: {options.rounds} rounds, median and (smallest to largest), in seconds."
    lines = [head, "", *table(found, sizes), "", *all_memory(found, sizes), ""]
    lines += [
        "The same services by other means, and as a whole playbook:",
        "",
        *other_means(found, sizes),
        "",
        *loop(found, sizes),
    ]
    print("\n".join(lines))
    if options.write:
        report.write("control plane", [*lines, "", plot(found)])


if __name__ == "__main__":
    main()
