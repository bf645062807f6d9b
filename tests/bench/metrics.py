# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a collection of metrics costs with 10,000 services, in processor seconds: of the agent, which has the
configuration in memory, with and without backends that are idle.

    tools/run python tests/bench/metrics.py [--services 10000] [--rounds 5]
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile

import control_plane
import report

#: Runs in the namespace. Processor seconds of each collection and the size of the text, with idle backends and without.
CHILD = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
asked = json.load(sys.stdin)
from pathlib import Path
from _natlb.host import store
from _natlb.plan.balance import balance
from _natlb.plan.running import Running
from _natlb.status import scrape
from _natlb.status.metrics import Vitals
paths = store.Paths(Path(asked["etc"]), Path(asked["run"]))
balance(asked["services"], engine=asked["engine"], iptables_variant=asked["variant"], paths=paths)
running = Running(paths, asked["variant"])
running.restore()
found = {"all": [], "without idle": []}
for kind, idle in (("all", True), ("without idle", False)):
    for turn in range(asked["rounds"]):
        before = sum(os.times()[:4])
        size = len(scrape.of_running(running, "x", [], Vitals(), idle))
        found[kind].append([sum(os.times()[:4]) - before, size])
print(json.dumps(found))
"""


def measured(count: int, rounds: int, engine: str, variant: str | None) -> dict[str, list[list[float]]]:
    with tempfile.TemporaryDirectory() as folder, control_plane.Namespace() as namespace:
        asked = {"services": control_plane.services(count), "engine": engine, "variant": variant, "rounds": rounds}
        asked |= {"etc": f"{folder}/etc", "run": "/run/natlb"}
        answer = namespace.run(sys.executable, "-c", CHILD, str(control_plane.CORE), text=json.dumps(asked))
    return dict(json.loads(answer))


def main() -> None:
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--services", type=int, default=10_000)
    args = parser.parse_args()
    for engine, variant in control_plane.ENGINES[:2]:
        for kind, rounds in measured(args.services, args.rounds, engine, variant).items():
            seconds = statistics.median(spent for spent, _size in rounds)
            name = f"{engine} {variant or ''}".strip()
            print(f"{name}, {kind}: {seconds:.2f} s of processor time, {rounds[-1][1] / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
