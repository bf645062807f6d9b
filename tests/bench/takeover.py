# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `takeover` costs the first packet of a connection that begins here: the ratio to the same service without it.

tools/run python tests/bench/takeover.py [--rounds 31] [--packets 3000] [--write]
"""

from __future__ import annotations

import layouts
import report
import wires
from layouts import Layout

ENGINES = {
    "nftables": ("nftables", None),
    "iptables (nft)": ("iptables", "nft"),
    "iptables (legacy)": ("iptables", "legacy"),
}


def main() -> None:
    parser = report.parser(__doc__, rounds=31)
    parser.add_argument("--packets", type=int, default=3000, help="connections of one run")
    options = parser.parse_args()
    pairs = {name: [_layout(name, *engine, on) for on in (False, True)] for name, engine in ENGINES.items()}
    found = wires.ratios(pairs, options.rounds, options.packets)
    rows = [[name, report.Rounds(tuple(ratios)).shown(3)] for name, ratios in found.items()]
    lines = [
        f"Measured on {report.machine()}:",
        f"{options.rounds} rounds, medians and (smallest to largest).",
        "",
        *report.table(["with takeover to without", "first packet"], rows),
    ]
    print("\n".join(lines))
    if options.write:
        report.write("takeover", lines)


def _layout(name: str, engine: str, variant: str | None, takeover: bool) -> Layout:
    load = layouts.natlb(engine, variant, "source_hash", snat="none", takeover=takeover)
    return Layout(name, load, shows_client=True)


if __name__ == "__main__":
    main()
