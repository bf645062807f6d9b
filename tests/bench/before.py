# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run costs now, and what it cost at an earlier commit: both in turn, so that the ratio holds on any machine.

    tools/run python tests/bench/before.py COMMIT [--sizes 10,1000,10000] [--rounds 3] [--method source_hash]

Not a part of `make bench`: who changes the core compares it with what it was.
"""

from __future__ import annotations

import itertools
import pathlib
import subprocess
import tempfile

import report
from control_plane import CORE, ENGINES, OPERATIONS, one_round


def earlier(commit: str, folder: str) -> pathlib.Path:
    """The core as it was."""
    archive = subprocess.run(
        ["git", "archive", commit, "plugins/module_utils"], cwd=report.ROOT, check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return pathlib.Path(folder) / "plugins" / "module_utils"


def main() -> None:
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument("commit")
    parser.add_argument("--sizes", default="10,1000,10000")
    parser.add_argument("--method", default="round_robin")
    parser.add_argument("--engines", default="nftables,nft,legacy")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        former = earlier(options.commit, folder)
        for size, (engine, variant) in itertools.product(map(int, options.sizes.split(",")), ENGINES):
            if (variant or engine) not in options.engines.split(","):
                continue
            found: dict[tuple[pathlib.Path, str], list[float]] = {}
            for _round, core in itertools.product(range(options.rounds), (former, CORE)):
                for operation, cost in one_round(size, engine, variant, core, options.method).items():
                    found.setdefault((core, operation), []).append(cost["all_s"])
            for operation in OPERATIONS:
                then, now = (report.Rounds(tuple(found[core, operation])) for core in (former, CORE))
                name = f"{engine} ({variant})" if variant else engine
                rows.append([f"{size:,}", name, operation, then.shown(), now.shown(), (now / then).shown()])
                print(" | ".join(rows[-1]), flush=True)
    print("\n".join(report.table(["services of 4", "engine", "operation", "then, s", "now, s", "ratio"], rows)))


if __name__ == "__main__":
    main()
