# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fleet costs its controller: the playbook `deploy` over containers that boot systemd, new ones and again.

    tools/run python tests/bench/fleet.py [--sizes 1,10,50] [--forks 10] [--rounds 5] [--write]

The containers are made for this and removed again, whatever happens. They have no network: the connection is `podman
exec`, with pipelining. They share the machine with the controller, so the CPU time of each is told apart: the
controller's is that of ansible-playbook and all that it starts, the rest of the machine's is theirs.

About ten minutes, and nothing else is to run on the machine meanwhile. Not part of `make test`: nothing here fails
because a machine is slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import memory
import report
from fleet_report import KINDS, Cost, Figures, lines, plot

sys.path.insert(0, str(report.ROOT / "tests" / "lab"))
import lab

PLAYBOOK = report.ROOT / "playbooks" / "deploy.yml"
SERVICES = 10
BACKENDS = 4
PREFIX = "natlb-fleet"
#: All that the lab's balancer has, but for its networks.
OPTIONS = ("--network=none", "--systemd=always", "--cap-add=NET_ADMIN", "--cap-add=SYS_ADMIN",
           "--security-opt=unmask=/proc/sys", "--sysctl=net.ipv4.ip_forward=0")  # fmt: skip
BOOT_TIMEOUT_S = 120
INOTIFY = pathlib.Path("/proc/sys/fs/inotify/max_user_instances")
INOTIFY_OF_ONE = 16
LONGEST_RUN_S = 900
#: How often the memory of all processes is added up. Only in a run of its own, which is not timed.
SAMPLE_S = 0.25
#: Ansible's default.
FEWEST_FORKS = 5
#: What a run over the largest fleet costs with other settings: arguments and environment of ansible-playbook.
VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "5 forks, Ansible's default": ((f"--forks={FEWEST_FORKS}",), {}),
    "as many forks as hosts": (("--forks={hosts}",), {}),
    "the strategy free": ((), {"ANSIBLE_STRATEGY": "free"}),
    "without pipelining": ((), {"ANSIBLE_PIPELINING": "0"}),
    "facts gathered": (("--extra-vars=natlb_gather_facts=true",), {}),
}

# -- the fleet --------------------------------------------------------------------------------------------------------


def name(number: int) -> str:
    return f"{PREFIX}-{number}"


def podman(*arguments: str, check: bool = True) -> str:
    return lab.run("podman", *arguments, check=check).stdout


def remove_fleet() -> None:
    """Also what an earlier run that was killed has left."""
    there = podman("ps", "--all", "--format={{.Names}}", f"--filter=name=^{PREFIX}-[0-9]+$").split()
    if there:
        podman("rm", "--force", "--time=0", *there)


def boot(number: int) -> None:
    """Start one container and wait until all of its units have started."""
    podman("run", "--detach", f"--name={name(number)}", f"--hostname={name(number)}", *OPTIONS, lab.IMAGE, "/sbin/init")
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    state = ""
    # Right after the start there is nobody to ask yet, and the answer is empty.
    while state not in ("running", "degraded") and time.monotonic() < deadline:
        state = podman("exec", name(number), "systemctl", "is-system-running", "--wait", check=False).strip()
    if state != "running":
        failed = podman("exec", name(number), "systemctl", "--failed", "--no-legend", check=False)
        raise lab.LabError(f"{name(number)} did not boot: {state or 'no answer'}\n{failed}")


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """All containers share one user's inotify instances, 128 by default, which some twenty systemds use up.

    What was set before is put back.
    """
    before = INOTIFY.read_text()
    try:
        INOTIFY.write_text(str(max(int(before), 128 + INOTIFY_OF_ONE * size)))
        yield
    finally:
        INOTIFY.write_text(before)


@contextlib.contextmanager
def fleet(size: int) -> Iterator[pathlib.Path]:
    """New containers, and a folder with their inventory and what is declared for them."""
    remove_fleet()
    with room_for(size), tempfile.TemporaryDirectory() as folder:
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(boot, range(1, size + 1)))
            pathlib.Path(folder, "inventory.json").write_text(json.dumps(inventory(size)))
            pathlib.Path(folder, "declared.json").write_text(
                json.dumps({"natlb_services": services(), "natlb_verify_each": False})
            )
            yield pathlib.Path(folder)
        finally:
            remove_fleet()


def inventory(size: int) -> dict[str, Any]:
    variables = {"ansible_connection": "natlb_podman", "ansible_python_interpreter": "/usr/bin/python3"}
    hosts = {name(number): {"lab_container": name(number)} for number in range(1, size + 1)}
    return {"balancers": {"vars": variables, "hosts": hosts}}


def services() -> list[dict[str, Any]]:
    return [
        {
            "name": f"s{number}",
            "listen": f"198.18.0.{number + 1}:80",
            "backends": [{"address": f"10.0.{number}.{k + 3}", "port": 8080} for k in range(BACKENDS)],
        }
        for number in range(SERVICES)
    ]


# -- one run ----------------------------------------------------------------------------------------------------------


def start(folder: pathlib.Path, forks: int, arguments: Iterable[str], environment: dict[str, str]) -> Any:
    """ansible-playbook, as the leader of a session that it shares with all that it starts."""
    argv = ["ansible-playbook", f"--inventory={folder}/inventory.json", f"--extra-vars=@{folder}/declared.json"]
    argv += [f"--forks={forks}", *arguments, str(PLAYBOOK)]
    settings = {**lab.podman_environment(), "NO_COLOR": "1", "ANSIBLE_NOCOLOR": "1", **environment}
    with open(folder / "output", "w") as output:
        return subprocess.Popen(
            argv, env=settings, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def run(
    folder: pathlib.Path, hosts: int, forks: int, changed: bool, arguments: Iterable[str] = (), **environment: str
) -> Cost:
    """One run over the fleet. Raises where it did not do on every host what it was to do."""
    busy_before, began = busy_s(), time.perf_counter()
    process = start(folder, forks, arguments, environment)
    with ended_in_any_case(process):
        # Not yet reaped, it can still be asked for its own time and, apart from that, for its descendants'.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        wall_s, busy = time.perf_counter() - began, busy_s() - busy_before
        own_s, descendants_s = process_s(process.pid)
        process.wait()
    check(folder, process.returncode, hosts, changed)
    controller_s = own_s + descendants_s
    return Cost(wall_s, controller_s, own_s, busy - controller_s)


def peak_memory(folder: pathlib.Path, hosts: int, forks: int) -> float:
    """MiB of all processes of one run together, at the worst moment seen."""
    process = start(folder, forks, (), {})
    with memory.watched(lambda: memory.session(process.pid), SAMPLE_S) as peak, ended_in_any_case(process):
        process.wait(LONGEST_RUN_S)
    check(folder, process.returncode, hosts, changed=False)
    return peak.mib


@contextlib.contextmanager
def ended_in_any_case(process: Any) -> Iterator[None]:
    """No run goes on for ever, or after this one has been interrupted."""
    timer = threading.Timer(LONGEST_RUN_S, kill_session, [process.pid])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if process.returncode is None:
            kill_session(process.pid)
            process.wait()


def kill_session(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def check(folder: pathlib.Path, status: int, hosts: int, changed: bool) -> None:
    """Every host is in the recap, with a change or without as it has to be."""
    output = (folder / "output").read_text()
    recap = re.findall(rf"^{PREFIX}-\d+ +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0 ", output, re.MULTILINE)
    if status or len(recap) != hosts or any((int(count) > 0) != changed for count in recap):
        raise SystemExit(
            f"ansible-playbook ended with {status}; {len(recap)} of {hosts} hosts are fine\n{output[-4000:]}"
        )


def busy_s() -> float:
    """CPU seconds that all processors of this machine have worked since it booted, see proc_stat(5)."""
    ticks = [int(field) for field in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = ticks[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def process_s(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and of its children that it has waited for, with theirs; see proc_pid_stat(5)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, user_children, system_children = map(int, fields[11:15])
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + system) / ticks, (user_children + system_children) / ticks


def connection_s() -> float:
    """CPU seconds of one `podman exec`, which stands for ssh here."""
    calls = 10
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _call in range(calls):
        podman("exec", name(1), "true")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / calls


# -- all of them -------------------------------------------------------------------------------------------------------


def one_round(figures: Figures, size: int) -> None:
    """New hosts, and then the same ones again."""
    with fleet(size) as folder:
        for kind in KINDS:
            figures.costs.setdefault((kind, size), []).append(run(folder, size, figures.forks, kind == "first"))
        figures.exec_s.append(connection_s())


def settings(figures: Figures, size: int, rounds: int) -> None:
    """The run with nothing to change, with other settings; and what memory it takes."""
    with fleet(size) as folder:
        run(folder, size, figures.forks, changed=True)
        for _round in range(rounds):
            for title, (arguments, environment) in VARIANTS.items():
                given = [argument.format(hosts=size) for argument in arguments]
                cost = run(folder, size, figures.forks, False, given, **environment)
                figures.variants.setdefault(title, []).append(cost)
        for forks in sorted({FEWEST_FORKS, figures.forks, size}):
            figures.memory[forks] = peak_memory(folder, size, forks)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--sizes", default="1,10,50", help="numbers of hosts, at least two (1,10,50)")
    parser.add_argument("--forks", type=int, default=10, help="hosts at a time (10)")
    options = parser.parse_args()
    sizes = sorted({int(size) for size in options.sizes.split(",")})
    if len(sizes) < 2:
        parser.error("a line needs two sizes at least")
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit("ended by a signal"))
    lab.build_image()
    figures = Figures(options.forks, SERVICES, BACKENDS)
    for number in range(options.rounds):
        for size in sizes:
            one_round(figures, size)
            done = {kind: figures.costs[kind, size][-1] for kind in KINDS}
            print(f"round {number + 1}, {size} hosts: {done}", file=sys.stderr, flush=True)
    settings(figures, sizes[-1], options.rounds)
    result = list(lines(figures))
    print("\n".join(result))
    if options.write:
        report.write("fleet", [*result, "", plot(figures)])


if __name__ == "__main__":
    main()
