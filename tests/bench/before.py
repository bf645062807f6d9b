# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run costs now, and what it cost at an earlier commit: both in turn, so that the ratio holds on any machine.

    tools/run python tests/bench/before.py COMMIT [--sizes 10,1000,10000] [--rounds 3] [--method source_hash]
    tools/run python tests/bench/before.py COMMIT --playbook [--sizes 10000]    # all of ansible-playbook, nftables

Not a part of `make bench`: who changes the core compares it with what it was.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial

import report
from control_plane import CORE, ENGINES, OPERATIONS, one_round, playbook_round


def earlier(commit: str, folder: str) -> pathlib.Path:
    """A folder of collections with this one in it as it was."""
    there = pathlib.Path(folder) / "ansible_collections" / "natlb" / "netfilter"
    there.mkdir(parents=True)
    kept = subprocess.run(
        ["git", "archive", commit, "galaxy.yml", "meta", "plugins"], cwd=report.ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", there], input=kept, check=True)
    return there


#: Costs by operation.
Costs = dict[str, list[float]]


def in_turn(rounds: int, then: Callable[[], Costs], now: Callable[[], Costs]) -> Iterator[list[str]]:
    """Cells of a row for each operation and cost: what it was, what it is, and the ratio, round by round."""
    found: list[tuple[Costs, Costs]] = [(then(), now()) for _round in range(rounds)]
    for operation in OPERATIONS:
        for number in range(len(found[0][0][operation])):
            before, here = (
                report.Rounds(tuple(costs[operation][number] for costs in side)) for side in zip(*found, strict=True)
            )
            yield [operation, before.shown(), here.shown(), (here / before).shown()]


def of_runs(options: argparse.Namespace, former: pathlib.Path) -> Iterator[list[str]]:
    """Seconds of a run, as a module does one."""

    def costs(count: int, engine: str, variant: str | None, core: pathlib.Path) -> Costs:
        found = one_round(count, engine, variant, core, options.method)
        return {operation: [cost["all_s"]] for operation, cost in found.items()}

    for size, (engine, variant) in itertools.product(options.sizes, ENGINES):
        if (variant or engine) in options.engines.split(","):
            name = f"{engine} ({variant})" if variant else engine
            sides = [partial(costs, size, engine, variant, core) for core in (former / "plugins/module_utils", CORE)]
            for cells in in_turn(options.rounds, *sides):
                yield [f"{size:,}", name, *cells]


def of_playbooks(options: argparse.Namespace, former: pathlib.Path) -> Iterator[list[str]]:
    """Seconds of the clock, and of all processors, of a playbook of one task."""

    def costs(count: int, collections: pathlib.Path | None) -> Costs:
        return {
            operation: [spent.all_s, spent.cpu_s] for operation, spent in playbook_round(count, collections).items()
        }

    for size in options.sizes:
        rows = in_turn(options.rounds, *(partial(costs, size, folder) for folder in (former.parents[2], None)))
        for what, cells in zip(itertools.cycle(("clock", "CPU")), rows):
            yield [f"{size:,}", what, *cells]


def main() -> None:
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument("commit")
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[10, 1000, 10000])
    parser.add_argument("--method", default="round_robin")
    parser.add_argument("--engines", default="nftables,nft,legacy")
    parser.add_argument("--playbook", action="store_true", help="measure all of ansible-playbook, not a run alone")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        former = earlier(options.commit, folder)
        for row in (of_playbooks if options.playbook else of_runs)(options, former):
            rows.append(row)
            print(" | ".join(row), flush=True)
    kind = "seconds of" if options.playbook else "engine"
    print("\n".join(report.table(["services of 4", kind, "operation", "then, s", "now, s", "ratio"], rows)))


if __name__ == "__main__":
    main()
