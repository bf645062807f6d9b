# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `redispatch` costs a service where nothing is refused: the ratio to the same service without it.

Both balancers are there at once and are measured in turn, so that a slow moment of the machine meets both:

- the first packet of a connection, as first_packet.py measures it (wires.py): median batch of a run, with to without;
- requests: a client and a backend on one processor, which speak in turn. On a connection that stays, and on one for
  each request. Requests per second, with to without, by the medians of short batches.

    tools/run python tests/bench/redispatch.py [--rounds 61] [--packets 3000] [--write]

The exit status is 1 where a first packet costs more than 1.01 times as much, or requests are fewer than 0.99 times as
many.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import echo
import layouts
import peers_lab
import report
import wires
from kernel_lab import drive
from layouts import Layout

#: Most that a first packet may cost, and fewest requests, with to without.
MOST, FEWEST = 1.01, 0.99
#: kernel_lab is found once this one is imported.
_FOUND = peers_lab
ENGINES = {
    "nftables": ("nftables", None),
    "iptables (nft)": ("iptables", "nft"),
    "iptables (legacy)": ("iptables", "legacy"),
}
#: Requests of a batch: some ten milliseconds.
KEPT, NEW = 400, 60
BATCHES = 15
WITHOUT, WITH = "without", "with"

Ratios = dict[str, list[float]]


# -- the first packet ------------------------------------------------------------------------------------------------


def first_packets(rounds: int, packets: int) -> Ratios:
    """By engine, a ratio for each round."""
    pairs = {
        name: [Layout(name, layouts.natlb(engine, variant, redispatch=on)) for on in (False, True)]
        for name, (engine, variant) in ENGINES.items()
    }
    return wires.ratios(pairs, rounds, packets)


# -- requests --------------------------------------------------------------------------------------------------------


def requests(rounds: int) -> dict[bool, Ratios]:
    """By whether the connection is kept, and by engine, a ratio of requests per second for each round."""
    found: dict[bool, Ratios] = {kept: {name: [] for name in ENGINES} for kept in (True, False)}
    cpu = sorted(os.sched_getaffinity(0))[-1]
    with tempfile.TemporaryDirectory() as folder, _network(Path(folder), cpu) as (network, stands):
        for _round in range(rounds):
            for kept, by_engine in found.items():
                for name, ratios in by_engine.items():
                    pair = [stands[name, which] for which in (WITHOUT, WITH)]
                    ratios.append(_ratio(network, pair, kept, cpu))
    return found


def _ratio(network: peers_lab.Network, pair: Sequence[peers_lab.Stand], kept: bool, cpu: int) -> float:
    """The median ratio of batches that were measured one after the other."""

    def taken(which: int) -> float:
        return float(network.client.call(echo.batch, pair[which].vip, KEPT if kept else NEW, kept, cpu))

    found = []
    for number in range(BATCHES):
        order = (0, 1) if number % 2 else (1, 0)
        seconds = {which: taken(which) for which in order}
        found.append(seconds[0] / seconds[1])
    return statistics.median(found)


@contextlib.contextmanager
def _network(folder: Path, cpu: int) -> Iterator[tuple[peers_lab.Network, dict[tuple[str, str], peers_lab.Stand]]]:
    keys = [(name, which) for name in ENGINES for which in (WITHOUT, WITH)]
    with contextlib.closing(peers_lab.Network([f"{name} {which}" for name, which in keys])) as network:
        for backend in network.backends:
            backend.call(echo.serve, peers_lab.HTTP_PORT, cpu)
        stands = dict(zip(keys, network.stands, strict=True))
        for (name, which), stand in stands.items():
            engine, variant = ENGINES[name]
            webs = [{"name": web, "address": stand.webs[web], "port": peers_lab.HTTP_PORT} for web in peers_lab.NAMES]
            web = {"name": "web", "listen": f"{stand.vip}:80", "redispatch": which == WITH, "backends": webs}
            options = {"engine": engine, **({"iptables_variant": variant} if variant else {})}
            stand.host.call(drive.balance, str(folder / str(stand.number)), [web], **options)
        yield network, stands


# -- the report ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = report.parser(__doc__, rounds=61)
    parser.add_argument("--packets", type=int, default=3000, help="connections of one run")
    options = parser.parse_args()
    packets = first_packets(options.rounds, options.packets)
    asked = requests(options.rounds)
    columns = [packets, asked[False], asked[True]]
    shown = {name: [report.Rounds(tuple(column[name])) for column in columns] for name in ENGINES}
    head = ["with redispatch to without", "first packet", "requests/s, each on a connection of its own", "on one"]
    lines = [
        f"Measured on {report.machine()}:",
        f"{options.rounds} rounds, medians and (smallest to largest). Wanted: a first packet costs at most {MOST}",
        f"times as much, and there are at least {FEWEST} times as many requests a second.",
        "",
        *report.table(head, [[name, *(rounds.shown(3) for rounds in found)] for name, found in shown.items()]),
    ]
    print("\n".join(lines))
    if options.write:
        report.write("redispatch", lines)
    good = all(found[0].median <= MOST and min(found[1].median, found[2].median) >= FEWEST for found in shown.values())
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
