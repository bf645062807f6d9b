# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `max_connections` costs a first packet: the ratio to the same service without it, measured as in redispatch.py.

All four backends with room; three of them full, so that nearly all connections try others first; and with `redispatch`.

    tools/run python tests/bench/max_connections.py [--rounds 31] [--packets 3000] [--write]
"""

from __future__ import annotations

import layouts
import report
import wires
from layouts import Layout

#: Far more than there are packets between two collections of the kernel, which come once a second.
PLENTY = 500_000
CASES = {
    "each of four has room": ((PLENTY,) * 4, "round_robin", False),
    "the same, `random`": ((PLENTY,) * 4, "random", False),
    "the same, with redispatch": ((PLENTY,) * 4, "round_robin", True),
    "three of four are full": ((1, 1, 1, 0), "round_robin", False),
}


def main() -> None:
    parser = report.parser(__doc__, rounds=31)
    parser.add_argument("--packets", type=int, default=3000, help="connections of one run")
    options = parser.parse_args()
    pairs = {
        name: [
            Layout(name, layouts.natlb("nftables", method=method, redispatch=redispatch, limits=each))
            for each in ((0,) * len(limits), limits)
        ]
        for name, (limits, method, redispatch) in CASES.items()
    }
    found = wires.ratios(pairs, options.rounds, options.packets)
    rows = [[name, report.Rounds(tuple(ratios)).shown(3)] for name, ratios in found.items()]
    lines = [
        f"Measured on {report.machine()}:",
        f"{options.rounds} rounds, medians and (smallest to largest).",
        "",
        *report.table(["with max_connections to without", "first packet"], rows),
    ]
    print("\n".join(lines))
    if options.write:
        report.write("max connections", lines)


if __name__ == "__main__":
    main()
