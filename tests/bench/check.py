# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Has something become slow? A minute's measurement of the ratios that matter, against limits: `make bench-check`.

Only ratios, of two things that are measured in turn: so neither a slow machine nor a slow moment counts. Exit status 1
where one is above its limit.

    tools/run python tests/bench/check.py [--rounds 9]

Not part of `make test`: a machine on which much else runs can still be off by more than the limits allow for.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import layouts
import report
from control_plane import CHILD, Namespace, services
from wires import Balancer, Wires

#: Services for the first packet, and for a run.
SERVICES, DECLARED = 10000, 1000
PACKETS = 3000


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


#: From seven checks (four of them with rules loaded anew) on the machine of docs/performance.md, while tests ran on it.
#: Of iptables (nft): three checks, when frontends side by side had come to share a rule (1.28 to 1.32).
#: Of the run: one check on the quiet machine since it lists and renders nothing (0.35 to 0.40 in nine rounds); it was
#: 1.6 before. A CPU on which calls and returns are cheaper (other mitigations) has lower ratios; there a limit is less
#: strict.
LIMITS = {
    "run without a change": Limit(0.36, 0.04),
    "first packet, nftables": Limit(1.085, 0.015),
    "first packet, iptables (nft)": Limit(1.3, 0.025),
    "first packet, iptables (legacy)": Limit(1.13, 0.025),
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


def unchanged_run(rounds: int) -> list[float]:
    """Ratios of a run that finds nothing to change to a process that only reads what the kernel holds."""
    core = str(report.ROOT / "plugins" / "module_utils")
    with tempfile.TemporaryDirectory() as folder, Namespace() as namespace:
        request = {"services": services(DECLARED), "engine": "nftables", "variant": None}
        text = json.dumps({**request, "etc": f"{folder}/etc", "run": f"{folder}/run"})

        def seconds(program: str, stdin: str = "") -> float:
            began = time.perf_counter()
            namespace.run(sys.executable, "-c", program, core, text=stdin)
            return time.perf_counter() - began

        seconds(CHILD, text)
        found = []
        for _round in range(rounds):
            before = seconds(CALIBRATION)
            here = seconds(CHILD, text)
            found.append(2 * here / (before + seconds(CALIBRATION)))
    return found


def main() -> None:
    parser = report.parser(__doc__, rounds=9)
    options = parser.parse_args()
    # The run first: the other part leaves only some of the CPUs to this process.
    measured = {"run without a change": unchanged_run(options.rounds), **packets(options.rounds)}
    slow = False
    for name, ratios in measured.items():
        found, most = report.Rounds(tuple(ratios)), LIMITS[name].most
        slow |= found.median > most
        print(f"{'SLOW' if found.median > most else 'ok':4}  {name}: {found.shown()}, at most {most:.2f}")
    if slow:
        raise SystemExit("something has become slower than it was; docs/performance.md says what was usual")


if __name__ == "__main__":
    main()
