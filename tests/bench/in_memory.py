# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change of health costs a process that stays: from the decision to the kernel, with 10,000 services declared.

One backend of one service, and one backend that 1,000 services share, by turns down and up. Two times from the call:
until the kernel has the new rules, which it tells with a notification at the end of a commit (NFT_MSG_NEWGEN), and
until the call returns. By then the program has ended, which waits until the kernel has freed the old rules, and
connections that were waiting for a backend that is down have been ended as well.

    tools/run python tests/bench/in_memory.py [--services 10000] [--sharing 1000] [--rounds 9] [--write]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from typing import NamedTuple

import control_plane
import report

#: Runs in the namespace. Each time in milliseconds, and whether the host had to be read for it.
CHILD = """
import json, socket, struct, sys, threading, time
sys.path.insert(0, sys.argv[1])
asked = json.load(sys.stdin)
NFNLGRP_NFTABLES, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_NO_ENOBUFS, NEWGEN = 7, 270, 1, 5, 0x0A0F
peer = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
peer.bind((0, 0))
commits = []
def follow():
    while True:
        data, now = peer.recv(1 << 18), time.perf_counter()
        while len(data) >= 16:
            length, kind = struct.unpack_from("=IH", data)
            if kind == NEWGEN:
                commits.append(now)
            data = data[(length + 3) & ~3:]
from pathlib import Path
from _natlb.host import store
from _natlb.model.effective import Finding, Place
from _natlb.plan.balance import balance
from _natlb.plan.running import Running
paths = store.Paths(Path(asked["etc"]), Path(asked["run"]))
balance(asked["services"], engine=asked["engine"], iptables_variant=asked["variant"], paths=paths)
running = Running(paths, asked["variant"])
running.restore()
peer.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
peer.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
threading.Thread(target=follow, daemon=True).start()
found = {"one": [], "sharing": []}
for kind, count in (("one", 1), ("sharing", asked["sharing"])):
    names = [item["name"] for item in asked["services"] if item["backends"][0]["address"] == "10.0.0.3"][-count:]
    for turn in range(2 * asked["rounds"]):
        finding = Finding("up" if turn % 2 else "down")
        findings = {Place(name, "10.0.0.3", 8080): finding for name in names}
        commits.clear()
        began = time.perf_counter()
        read = running.find(findings) is not None
        done = time.perf_counter()
        while not commits and time.perf_counter() < done + 10:
            time.sleep(0.01)
        # A change that is two commits is there with the second.
        found[kind].append([1e3 * (commits[-1] - began), 1e3 * (done - began), read, finding.state])
print(json.dumps(found))
"""


def services(count: int, sharing: int) -> list[dict[str, object]]:
    """As those of the other benchmarks; so many of them have one backend in common."""
    found = control_plane.services(count)
    for number, item in enumerate(found):
        item["health"] = {"type": "tcp"}
        backends = item["backends"]
        first = "10.0.0.3" if number < sharing else f"10.1.{number % 250}.3"
        item["backends"] = [{"address": first, "port": 8080}, *backends[1:]]
    return found


class Turn(NamedTuple):
    """One change: until the kernel had it, and until all was done; whether the host was read for it; and its state."""

    kernel_ms: float
    done_ms: float
    read: bool
    state: str


def measured(count: int, sharing: int, rounds: int, engine: str, variant: str | None) -> dict[str, list[Turn]]:
    """The turns of one service, and of those that share a backend."""
    with tempfile.TemporaryDirectory() as folder, control_plane.Namespace() as namespace:
        asked = {"services": services(count, sharing), "engine": engine, "variant": variant}
        # In memory, as /run is on a host: the finding is written and synced within the time.
        asked |= {"etc": f"{folder}/etc", "run": "/run/natlb", "sharing": sharing, "rounds": rounds}
        answer = namespace.run(sys.executable, "-c", CHILD, str(control_plane.CORE), text=json.dumps(asked))
    return {kind: [Turn(*turn) for turn in turns] for kind, turns in json.loads(answer).items()}


def spread(each: list[float]) -> str:
    return f"{statistics.median(each):.0f} ({min(each):.0f} to {max(each):.0f})"


def main() -> None:
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--sharing", type=int, default=1_000)
    args = parser.parse_args()
    rows = []
    for engine, variant in control_plane.ENGINES[:2]:
        found = measured(args.services, args.sharing, args.rounds, engine, variant)
        for kind, times in found.items():
            what = "one service" if kind == "one" else f"{args.sharing:,} services that share it"
            for state in ("down", "up"):
                turns = [turn for turn in times if turn.state == state]
                spreads = [spread([turn.kernel_ms for turn in turns]), spread([turn.done_ms for turn in turns])]
                rows.append([f"{engine} ({variant})" if variant else engine, f"a backend of {what} {state}", *spreads])
                if any(turn.read for turn in turns):
                    raise SystemExit(f"{rows[-1]}: the host was read, so this is not what was to be measured")
    head = [f"{report.machine()}: milliseconds, median and (smallest to largest) of {args.rounds} turns.", ""]
    lines = head + report.table(["engine", "change", "in the kernel", "done"], rows)
    print("\n".join(lines))
    if args.write:
        report.write("health", lines)


if __name__ == "__main__":
    main()
