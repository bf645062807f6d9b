# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the whole agent costs, end to end: the program that a run leaves on a host, beside rules in a kernel, with real
backends that answer. Processor seconds of it and of its children, and its memory.

    tools/run python tests/bench/agent.py [BACKENDS [INTERVAL_S [SECONDS]]]

It runs in a network namespace of its own. The backends are addresses of that namespace, so their kernel's part of each
handshake is done by the agent's process and is in the figure. Looks at connection tracking are in it, too: their cost
depends on the size of its table, which is printed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CORE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"
#: Runs in the namespace.
CHILD = """
import json, socket, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from _natlb.cli import single_file
from _natlb.host import store
from _natlb.plan.balance import balance
asked = json.load(sys.stdin)
root = Path(asked["root"])
for line in ("link set lo up", "route add local 10.0.0.0/8 dev lo"):
    subprocess.run(["ip", *line.split()], check=True)
server = socket.create_server(("0.0.0.0", 8080), backlog=1024)
paths = store.Paths(root / "etc", root / "run")
balance(asked["services"], engine="nftables", paths=paths, program=single_file.text)
with (root / "log").open("w") as log:
    argv = [sys.executable, "-I", "-OO", str(root / "etc/current/natlb"), "--root", str(root), "agent"]
    agent = subprocess.Popen(argv, stdout=log, stderr=log)
print(agent.pid, flush=True)
sys.stdin.close()
agent.wait()
"""


def services(backends: int, interval_s: float) -> list[dict[str, Any]]:
    """Ten backends a service."""
    return [
        {
            "name": f"s{first}",
            "listen": f"192.0.2.10:{1000 + first}",
            "health": {"type": "tcp", "interval": interval_s, "timeout": min(1.0, interval_s)},
            "backends": [
                {"address": f"10.1.{number // 250}.{number % 250 + 1}", "port": 8080}
                for number in range(first, min(first + 10, backends))
            ],
        }
        for first in range(0, backends, 10)
    ]


def spent_s(pid: int) -> float:
    """Processor seconds of a process and of its children that have ended, see proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """What of it is in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def wait_until_all_are_up(root: Path, backends: int, within_s: float = 120.0) -> None:
    """Raises `TimeoutError` with what the agent said."""
    give_up = time.monotonic() + within_s
    while (root / "log").read_text().count(" is up") < backends if (root / "log").exists() else True:
        if time.monotonic() > give_up:
            raise TimeoutError((root / "log").read_text()[-2000:])
        time.sleep(0.1)
    # What boots follows some seconds after the last change.
    time.sleep(5)


def main(backends: int = 1000, interval_s: float = 2.0, seconds: float = 30.0) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        asked = json.dumps({"root": folder, "services": services(backends, interval_s)})
        argv = ["unshare", "--net", sys.executable, "-c", CHILD, str(CORE)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(asked)
            child.stdin.close()
            pid = int(child.stdout.readline())
            try:
                wait_until_all_are_up(Path(folder), backends)
                began, before = time.monotonic(), spent_s(pid)
                time.sleep(seconds)
                took, spent = time.monotonic() - began, spent_s(pid) - before
                memory = memory_mib(pid)
                said = (Path(folder) / "log").read_text()
            finally:
                os.kill(pid, 15)
        buckets = Path("/proc/sys/net/netfilter/nf_conntrack_buckets").read_text().strip()
        changes = said.count(" is down")
        print(f"{backends} backends, tcp, every {interval_s:g} s, for {took:.0f} s: {changes} went down")
        print(f"{100 * spent / took:.1f} % of one core, {memory:.1f} MiB; connection tracking has {buckets} buckets")


if __name__ == "__main__":
    main(*(kind(given) for kind, given in zip((int, float, float), sys.argv[1:], strict=False)))
