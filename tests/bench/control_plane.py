# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run costs: time and memory, by number of services and engine, beside what one would type otherwise.

Each round runs in a network namespace of its own, and every operation in a process of its own, as a module does: the
time includes the start of Python and the import of the core. Operations of one round follow each other, so a slow
moment of the machine meets all of them; the median of the rounds is shown with its spread.

    tools/run python tests/bench/control_plane.py [--sizes 1,10,100,1000] [--rounds 5] [--write]

Not part of `make test`: nothing here fails because a machine is slow.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import report

ENGINES = [("nftables", None), ("iptables", "nft"), ("iptables", "legacy")]
OPERATIONS = ["first apply", "no change", "one drained", "one added", "1 % changed"]
LOOP_RULES = 20

#: Runs in the namespace: one apply, with the time that the kernel's transaction took of it, and the peak memory.
CHILD = """
import json, resource, sys, time
sys.path.insert(0, sys.argv[1])
request = json.load(sys.stdin)
from pathlib import Path
from _natlb import apply, kernel, store
spent = [0.0]
def timed(function):
    def call(*args):
        began = time.perf_counter()
        try:
            return function(*args)
        finally:
            spent[0] += time.perf_counter() - began
    return call
kernel.carry = timed(kernel.carry)
paths = store.Paths(Path(request["etc"]), Path(request["run"]))
outcome = apply.balance(request["services"], engine=request["engine"], iptables_variant=request["variant"], paths=paths)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"changed": outcome.changed, "kernel_s": spent[0], "peak_kib": peak}))
"""


def services(count: int, drained: bool = False, added: int = 0, changed: int = 0) -> list[dict[str, Any]]:
    """`count` services with four backends each, round robin; some of them different from the plain ones."""
    listed = []
    for i in range(count + added):
        backends: list[dict[str, Any]] = [{"address": f"10.0.{i % 250}.{k + 3}", "port": 8080} for k in range(4)]
        if drained and i == count // 2:
            backends[1]["state"] = "drained"
        if i < changed:
            backends[0]["weight"] = 2
        listed.append({"name": f"s{i}", "listen": f"198.18.{i // 250}.{i % 250 + 1}:80", "backends": backends})
    return listed


def declarations(count: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    plain = services(count)
    yield "first apply", plain
    yield "no change", plain
    yield "one drained", services(count, drained=True)
    yield "one added", services(count, drained=True, added=1)
    yield "1 % changed", services(count, drained=True, added=1, changed=max(1, count // 100))


class Namespace:
    """A network namespace that lives as long as a process in it."""

    def __enter__(self) -> Namespace:
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        while os.readlink(f"/proc/{self.process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.001)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, *argv: str, text: str = "") -> str:
        command = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", *argv]
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(argv[:3])}: {done.stderr[-2000:]}")
        return done.stdout


def one_round(count: int, engine: str, variant: str | None) -> dict[str, dict[str, float]]:
    """Seconds in all, seconds in the kernel's transaction and KiB, by operation."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, Namespace() as namespace:
        for operation, declared in declarations(count):
            request = {"services": declared, "engine": engine, "variant": variant}
            request |= {"etc": f"{folder}/etc", "run": f"{folder}/run"}
            began = time.perf_counter()
            answer = namespace.run(
                sys.executable, "-c", CHILD, str(report.ROOT / "plugins" / "module_utils"), text=json.dumps(request)
            )
            seconds = time.perf_counter() - began
            told = json.loads(answer)
            assert told["changed"] == (operation != "no change"), (operation, told)
            found[operation] = {"all_s": seconds, "kernel_s": told["kernel_s"], "peak_kib": told["peak_kib"]}
    return found


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


def loop_of_single_rules() -> float:
    """Seconds per rule of ansible.builtin.iptables in a loop. It has no `statistic`, so these are plain DNAT rules."""
    play = f"""
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.iptables:
        table: nat
        chain: PREROUTING
        protocol: tcp
        destination: "198.18.0.{{{{ item }}}}"
        destination_port: "80"
        jump: DNAT
        to_destination: "10.0.0.3:8080"
      loop: "{{{{ range(1, {LOOP_RULES + 1}) | list }}}}"
"""
    with tempfile.TemporaryDirectory() as folder, Namespace() as namespace:
        path = pathlib.Path(folder) / "play.yml"
        path.write_text(play)
        interpreter = f"ansible_python_interpreter={sys.executable}"
        times = []
        for limit in (1, LOOP_RULES):
            path.write_text(play.replace(f"range(1, {LOOP_RULES + 1})", f"range(1, {limit + 1})"))
            began = time.perf_counter()
            namespace.run("ansible-playbook", "-i", "localhost,", "-e", interpreter, str(path))
            times.append(time.perf_counter() - began)
    return (times[1] - times[0]) / (LOOP_RULES - 1)


def measure(sizes: list[int], rounds: int) -> Iterator[str]:
    """The lines of the report, as they are measured."""
    yield f"Measured on {report.machine()}: {rounds} rounds, median and (smallest to largest), in seconds."
    yield ""
    yield from report.table(
        ["services of 4", "engine", *OPERATIONS, "of it the kernel's transaction, one drained", "peak memory, MiB"],
        _rows(sizes, rounds),
    )
    yield ""
    yield from neighbours(sizes, rounds)


def _rows(sizes: list[int], rounds: int) -> Iterator[list[str]]:
    for count in sizes:
        results: dict[tuple[str, str | None], list[dict[str, dict[str, float]]]] = {key: [] for key in ENGINES}
        for _round in range(rounds):
            for engine, variant in ENGINES:
                results[engine, variant].append(one_round(count, engine, variant))
        for (engine, variant), found in results.items():
            name = f"{engine} ({variant})" if variant else engine
            cells = [_rounds([item[operation]["all_s"] for item in found]).shown() for operation in OPERATIONS]
            cells.append(_rounds([item["one drained"]["kernel_s"] for item in found]).shown())
            peaks = [max(part["peak_kib"] for part in item.values()) / 1024 for item in found]
            yield [str(count), name, *cells, f"{max(peaks):.0f}"]


def _rounds(values: list[float]) -> report.Rounds:
    return report.Rounds(tuple(values))


def neighbours(sizes: list[int], rounds: int) -> Iterator[str]:
    yield "The same services by other means:"
    yield ""
    rows = []
    for count in sizes:
        times = [_rounds([flat_restore(count, variant) for _round in range(rounds)]) for variant in ("nft", "legacy")]
        rows.append([str(count), *(item.shown() for item in times)])
    yield from report.table(["services of 4", "`iptables-restore` of a flat file (nft)", "(legacy)"], rows)
    yield ""
    rule_s = loop_of_single_rules()
    yield f"`ansible.builtin.iptables` in a loop takes {rule_s:.2f} s a rule ({LOOP_RULES} rules measured), and cannot"
    yield f"express the choice of a backend. At five rules a service, 1,000 services would take {rule_s * 5000:.0f} s."


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--sizes", default="1,10,100,1000")
    options = parser.parse_args()
    lines = []
    for line in measure([int(size) for size in options.sizes.split(",")], options.rounds):
        print(line, flush=True)
        lines.append(line)
    if options.write:
        report.write("control plane", lines)


if __name__ == "__main__":
    main()
