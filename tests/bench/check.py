# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has something become slow? Some minutes' measurement of the ratios that matter, against limits: `make bench-check`.

Only ratios, of two things that are measured in turn: so neither a slow machine nor a slow moment counts. Exit status 1
where one is above its limit.

    tools/run python tests/bench/check.py [--rounds 9]

Not part of `make test`: a machine on which much else runs can still be off by more than the limits allow for.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import layouts
import report
from control_plane import CHILD, Namespace, processors_s, services
from wires import Balancer, Wires

#: Services for the first packet, and for a run.
SERVICES, DECLARED = 10000, 1000
PACKETS = 3000
#: An engine and its variant.
Engine = tuple[str, "str | None"]
NFTABLES: Engine = ("nftables", None)
IPTABLES: Engine = ("iptables", "nft")


@dataclass(frozen=True)
class Limit:
    """What a ratio is, and how far from that the result of a check was at most, when the limit was set.

    The limit is above by three times that distance: outside the noise, and below twice the price of what is there.
    """

    usual: float
    noise: float

    @property
    def most(self) -> float:
        return self.usual + 3 * self.noise


#: First packets: from seven checks (four of them with rules loaded anew) on the machine of docs/performance.md, while
#: tests ran on it; iptables (nft) from three, when frontends side by side had come to share a rule (1.28 to 1.32).
#: Runs: from four checks on the same machine, three of them under a load of ten; those of iptables from two, under a
#: load of twelve. Each limit but those of iptables runs has been passed on purpose:
#: where nothing of the last run is believed (1.4, 1.5 and 1.3 for runs that change little), where the scratch namespace
#: is asked about each slot (2.8 for a first run), and where balancer_info lists whole tables (1.1).
#: A CPU on which calls and returns are cheaper (other mitigations) has lower ratios; there a limit is less strict.
LIMITS = {
    "run without a change": Limit(0.30, 0.02),
    "one drained": Limit(1.15, 0.04),
    "hash services, first run": Limit(1.0, 0.04),
    "hash services, one drained": Limit(0.55, 0.02),
    "hash services, balancer_info": Limit(0.54, 0.02),
    "first packet, nftables": Limit(1.085, 0.015),
    "first packet, iptables (nft)": Limit(1.3, 0.025),
    "first packet, iptables (legacy)": Limit(1.13, 0.025),
    "iptables (nft), run without a change": Limit(0.35, 0.03),
    "iptables (nft), one drained": Limit(1.37, 0.05),
}


def packets(rounds: int) -> dict[str, list[float]]:
    """Ratios of the first packet to the last of 10,000 services to that of one static rule, by engine and round.

    The last service is the one that most rules of a tree come before.
    """
    with Wires() as wired:
        floor = wired.balancer(layouts.STATIC, layouts.services(1))
        declared = layouts.services(SERVICES)
        with ThreadPoolExecutor(2) as pool:
            balancers = list(pool.map(lambda layout: wired.balancer(layout, declared), layouts.OURS))
        ours = {balancer.layout.name.removeprefix("natlb, "): balancer for balancer in balancers}
        wired.leave_cpu()

        def once(balancer: Balancer, number: int) -> float:
            return wired.measure(balancer, balancer.services[-1:], PACKETS, number).typical_ns

        found: dict[str, list[float]] = {name: [] for name in ours}
        for number in range(rounds):
            for name, balancer in ours.items():
                before = once(floor, number)
                here = once(balancer, number)
                found[name].append(2 * here / (before + once(floor, number)))
    return {f"first packet, {name}": ratios for name, ratios in found.items()}


#: What a run is compared with: Python, the core's modules, and nft's list, which is read line by line.
CALIBRATION = """
import json, subprocess, sys
sys.path.insert(0, sys.argv[1])
from _natlb.plan import apply
listing = subprocess.run(["nft", "-nn", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
json.dumps([line.split() for line in listing.splitlines()])
"""
#: What the module balancer_info does.
INFORMATION = """
import json, sys
sys.path.insert(0, sys.argv[1])
request = json.load(sys.stdin)
from pathlib import Path
from _natlb.host.store import Paths
from _natlb.status.info import info
assert len(info(paths=Paths(Path(request["etc"]), Path(request["run"])))["services"]) == len(request["services"])
"""


@dataclass(frozen=True)
class Timed:
    """A run that is measured: a program and what it is asked for. The one before it makes ready and is not timed."""

    name: str
    program: str
    declared: Sequence[Any]
    ready: Sequence[Any] | None = None


def timed_runs(method: str, engine: Engine) -> list[Timed]:
    plain, drained = (services(DECLARED, drained=one, method=method) for one in (False, True))
    if method == "round_robin":
        of = "iptables (nft), " if engine == IPTABLES else ""
        return [
            Timed(f"{of}run without a change", CHILD, plain, ready=plain),
            Timed(f"{of}one drained", CHILD, drained, ready=plain),
        ]
    return [
        Timed("hash services, first run", CHILD, plain, ready=[]),
        Timed("hash services, one drained", CHILD, drained, ready=plain),
        Timed("hash services, balancer_info", INFORMATION, drained),
    ]


def runs(rounds: int, method: str, engine: Engine = NFTABLES) -> dict[str, list[float]]:
    """Ratios of runs to a process that only reads what the kernel holds then, by name and round.

    Of processor time, with that of all programs that they start: on a machine that does much else it stays the same.
    """
    core = str(report.ROOT / "plugins" / "module_utils")
    measured = timed_runs(method, engine)
    found: dict[str, list[float]] = {run.name: [] for run in measured}
    with tempfile.TemporaryDirectory() as folder, Namespace() as namespace:

        def seconds(program: str, declared: Sequence[Any] = ()) -> float:
            request = {"services": declared, "engine": engine[0], "variant": engine[1]}
            text = json.dumps({**request, "etc": f"{folder}/etc", "run": f"{folder}/run"})
            began = processors_s()
            namespace.run(sys.executable, "-c", program, core, text=text)
            return processors_s() - began

        seconds(CHILD, measured[-1].declared)
        for _round in range(rounds):
            for run in measured:
                before = seconds(CALIBRATION)
                if run.ready is not None:
                    seconds(CHILD, run.ready)
                here = seconds(run.program, run.declared)
                found[run.name].append(2 * here / (before + seconds(CALIBRATION)))
    return found


def main() -> None:
    parser = report.parser(__doc__, rounds=9)
    options = parser.parse_args()
    # Runs first: the other part leaves only some of the CPUs to this process.
    parts = {
        "runs of turns": lambda: runs(options.rounds, "round_robin"),
        "runs of hashes": lambda: runs(options.rounds, "source_hash"),
        "runs with iptables": lambda: runs(options.rounds, "round_robin", IPTABLES),
        "first packets": lambda: packets(options.rounds),
    }
    measured: dict[str, list[float]] = {}
    for number, (name, measure) in enumerate(parts.items(), 1):
        print(f"bench: part {number} of {len(parts)}, {name}", flush=True)
        measured |= measure()
    slow = False
    for name, ratios in measured.items():
        found, most = report.Rounds(tuple(ratios)), LIMITS[name].most
        slow |= found.median > most
        print(f"{'SLOW' if found.median > most else 'ok':4}  {name}: {found.shown()}, at most {most:.2f}")
    if slow:
        raise SystemExit("something has become slower than it was; docs/performance.md says what was usual")


if __name__ == "__main__":
    main()
