# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the first packet of a connection costs, by layout of the rules and number of services.

Only that packet meets the rules. Its whole way is measured (sender, two wires, two routing decisions, connection
tracking, destination and source NAT; see wires.py), beside the same way with one static rule, which is the least that
a NAT balancer can do. A run of which one packet did not reach its backend, translated, ends the benchmark.

Each round measures everything once, in an order of its own, each between two runs of the static rule: the ratio is
that to their mean. A run counts with its median batch of 64 packets, so that an interrupt, or the machine's other
users, spoil a batch and not the run. The median of the rounds is shown with its spread.

    tools/run python tests/bench/first_packet.py [--sizes 1,100,1000,10000] [--rounds 15] [--packets 4000] [--write]
"""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import layouts
import report
import wires
from layouts import Layout, Service
from wires import Balancer, Wires

#: A run of a slow layout sends fewer packets, so that it takes no longer than so many seconds; but never fewer packets.
LONGEST_S = 0.08
FEWEST = 200
PILOT = 400

#: What is wanted of our own layouts: the ratio to the static rule at the fewest and at the most services.
TARGETS = {layouts.NFTABLES: (1.05, 1.10), layouts.IPTABLES[0]: (None, 1.15), layouts.IPTABLES[1]: (None, 1.15)}

#: What there is one service of.
SINGLE = [layouts.STATIC, layouts.BY_HAND, *layouts.STATIC_IPTABLES, layouts.STATIC6, layouts.NOTHING]
POSITIONS = ("first", "middle", "last", "all in turn")


@dataclass(frozen=True)
class Point:
    """What is measured: packets to one service of a balancer, or to all of its services, one after the other."""

    balancer: Balancer
    position: str

    @property
    def services(self) -> Sequence[Service]:
        declared = self.balancer.services
        if self.position == "all in turn":
            return layouts.shuffled(declared)
        return [declared[{"first": 0, "middle": len(declared) // 2, "last": len(declared) - 1}[self.position]]]


@dataclass
class Result:
    """Of each round: microseconds per packet of the median batch, and of all of them, and the ratio to the floor."""

    us: list[float] = field(default_factory=list)
    mean_us: list[float] = field(default_factory=list)
    ratio: list[float] = field(default_factory=list)

    def cell(self) -> str:
        return f"{statistics.median(self.ratio):.2f}: {_rounds(self.us).shown()}"


def _rounds(values: Sequence[float]) -> report.Rounds:
    return report.Rounds(tuple(values))


Results = dict[Point, Result]


class Bench:
    """All balancers of a benchmark, and what is measured of them."""

    def __init__(self, wired: Wires, packets: int) -> None:
        self.wired, self.packets = wired, packets
        self.points: list[Point] = []
        self._floors: dict[str, Balancer] = {}
        self._packets: dict[Point, int] = {}

    def add(self, wanted: Sequence[tuple[Layout, int, Sequence[str]]]) -> None:
        """Load layouts with so many services, to be measured at these positions. Two at a time: loading is not what is
        measured."""

        def load(item: tuple[Layout, int, Sequence[str]]) -> list[Point]:
            layout, count, positions = item
            balancer = self.wired.balancer(layout, layouts.services(count, layout.family))
            return [Point(balancer, position) for position in positions]

        floors = [(layouts.STATIC, 1, ()), (layouts.STATIC6, 1, ())]
        for layout, _count, _positions in floors:
            self._floors[layout.family] = self.wired.balancer(layout, layouts.services(1, layout.family))
        with ThreadPoolExecutor(2) as pool:
            self.points += itertools.chain.from_iterable(pool.map(load, wanted))

    def rounds(self, count: int) -> Results:
        found = {point: Result() for point in self.points}
        self.wired.leave_cpu()
        for point in self.points:
            pilot = self.wired.measure(point.balancer, point.services, PILOT, 0)
            self._packets[point] = max(FEWEST, min(self.packets, int(LONGEST_S * 1e9 / pilot.ns)))
        for number in range(1, count + 1):
            order = list(self.points)
            random.Random(number).shuffle(order)
            for point in order:
                before = self.floor(point, number)
                run = self.wired.measure(point.balancer, point.services, self._packets[point], number)
                floor = (before + self.floor(point, number)) / 2
                found[point].us.append(run.typical_ns / 1e3)
                found[point].mean_us.append(run.ns / 1e3)
                found[point].ratio.append(run.typical_ns / floor)
        return found

    def floor(self, point: Point, seed: int) -> float:
        """Nanoseconds per packet with one static rule of the point's family."""
        balancer = self._floors[point.balancer.layout.family]
        return self.wired.measure(balancer, balancer.services, self.packets, seed).typical_ns


# -- what is measured ------------------------------------------------------------------------------------------------


def wanted(sizes: Sequence[int]) -> list[tuple[Layout, int, Sequence[str]]]:
    """The largest rulesets come first, since they take the longest to load."""
    most = max(sizes)
    by_size = [
        (layout, count, POSITIONS if count == most else ("middle",) if count > 1 else ("first",))
        for count in sorted(sizes, reverse=True)
        for layout in [*layouts.OURS, *layouts.OTHERS]
    ]
    once = [(layout, most, ("middle",)) for layout in [layouts.RANDOM, *layouts.OURS6]]
    # With 1,000 services there are 250 tables, so many that they are made of rows of two.
    once += [(layouts.SOURCE_HASH, count, ("middle",)) for count in sorted({min(most, 100), min(most, 1000)})]
    return [*by_size, *once, *((layout, 1, ("first",)) for layout in [*SINGLE, *layouts.WITH_KEYS])]


# -- the report ------------------------------------------------------------------------------------------------------


def page(found: Results, sizes: Sequence[int], rounds: int, packets: int) -> Iterator[str]:
    """The lines of docs/performance.md."""
    yield f"Measured on {report.machine()}:"
    yield f"{rounds} rounds of {packets:,} connections each (fewer where one takes longer). The median ratio to one"
    yield "static rule, and the microseconds of a first packet's whole way: median and (smallest to largest). The"
    yield f"tracking table has {wires.tracking_buckets():,} buckets."
    yield ""
    sized = {(p.balancer.layout, len(p.balancer.services), p.position): r for p, r in found.items()}
    yield from report.table(["without many services", "ratio: µs"], [[p, r.cell()] for p, r in _single(found)])
    yield ""
    head = ["in the middle of the list", *(_services(count) for count in sizes)]
    many = [*layouts.OURS, *layouts.OTHERS]
    yield from report.table(
        head, [[_name(o), *(sized[o, c, "middle" if c > 1 else "first"].cell() for c in sizes)] for o in many]
    )
    yield ""
    most = max(sizes)
    head = [f"of {_services(most)}", "the first", "the one in the middle", "the last", "all in turn, by chance"]
    yield from report.table(head, [[_name(o), *(sized[o, most, p].cell() for p in POSITIONS)] for o in many])
    yield ""
    others = [layouts.RANDOM, layouts.SOURCE_HASH, *layouts.OURS6]
    rows = [
        [point.balancer.layout.name, f"{len(point.balancer.services):,}", result.cell()]
        for point, result in found.items()
        if point.balancer.layout in others
    ]
    yield from report.table(["other methods, and IPv6 (beside its own static rule)", "services", "ratio: µs"], rows)
    yield ""
    keys = [[p.balancer.layout.name, r.cell()] for p, r in found.items() if p.balancer.layout in layouts.WITH_KEYS]
    yield from report.table(["one service with a key (iptables is that of nft)", "ratio: µs"], keys)


def _services(count: int) -> str:
    return "1 service" if count == 1 else f"{count:,} services"


def _name(layout: Layout) -> str:
    return f"**{layout.name}**" if layout in layouts.OURS else layout.name


def _single(found: Results) -> Iterator[tuple[str, Result]]:
    for point, result in found.items():
        if point.balancer.layout in SINGLE:
            yield point.balancer.layout.name, result


def plots(found: Results, sizes: Sequence[int]) -> Iterator[str]:
    """Pictures of all layouts over the number of services, and the Markdown that shows them."""
    series: dict[str, dict[float, report.Rounds]] = {}
    for point, result in found.items():
        layout, count = point.balancer.layout, len(point.balancer.services)
        if layout in [*layouts.OURS, *layouts.OTHERS] and (count == 1 or point.position == "middle"):
            series.setdefault(layout.name, {})[count] = _rounds(result.us)
    [floor] = [result for point, result in found.items() if point.balancer.layout == layouts.STATIC]
    series[layouts.STATIC.name] = dict.fromkeys(sizes, _rounds(floor.us))
    axes = ("services", "µs for the first packet of a connection")
    yield ""
    title = "First packet of a connection to the service in the middle of the list"
    yield report.plot_lines("first-packet", title, axes, series, logarithmic=True)


def targets(found: Results, sizes: Sequence[int]) -> Iterator[str]:
    """What was aimed at, and what was measured; for whoever runs it, not for the page."""
    for point, result in found.items():
        limits = TARGETS.get(point.balancer.layout)
        count = len(point.balancer.services)
        limit = limits[count == max(sizes)] if limits and count in (min(sizes), max(sizes)) else None
        # One static rule is no floor for a run over all services, whose rules and elements no cache holds.
        if limit and point.position != "all in turn":
            ratio = _rounds(result.ratio)
            verdict = "reached" if ratio.median <= limit else "MISSED"
            where = f"{point.balancer.layout.name}, {_services(count)}, {point.position}"
            yield f"{verdict}: {ratio.shown(3)} times the static rule, wanted {limit:.2f}: {where}"


def spread(found: Results) -> Iterator[str]:
    """How far the mean of a run is from its median batch, by which a disturbed machine shows itself."""
    apart = [a / b for result in found.values() for a, b in zip(result.mean_us, result.us, strict=True)]
    yield f"mean of a run over its median batch: {statistics.median(apart):.3f}, in the worst run {max(apart):.2f}"


def main() -> None:
    parser = report.parser(__doc__, rounds=15)
    parser.add_argument("--sizes", default="1,100,1000,10000")
    parser.add_argument("--packets", type=int, default=4000, help="connections of one run")
    options = parser.parse_args()
    sizes = sorted(int(size) for size in options.sizes.split(","))
    if options.write:
        import matplotlib  # noqa: F401, PLC0415  (what is missing is to be missed now, not after the measurement)

    began = time.monotonic()
    with Wires() as wired:
        bench = Bench(wired, options.packets)
        bench.add(wanted(sizes))
        print(f"{len(bench.points)} points, loaded in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        found = bench.rounds(options.rounds)
    lines = list(page(found, sizes, options.rounds, options.packets))
    print("\n".join([*lines, "", *targets(found, sizes), *spread(found)]))
    if options.write:
        report.write("first packet", [*lines, *plots(found, sizes)])


if __name__ == "__main__":
    main()
