# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What fleet.py has measured: tables, a straight line, and what that means for fleets that do not fit here."""

from __future__ import annotations

import dataclasses
import math
import statistics
import textwrap
from collections.abc import Iterator, Sequence

import report

#: A run over new hosts, and one over the same hosts again, and what their rows are called.
KINDS = {"first": "first, on new hosts", "again": "again, nothing to change"}
PARTS = {
    "wall_s": "on the clock",
    "controller_s": "CPU of the controller",
    "main_s": "of it Ansible's main process",
    "others_s": "CPU of the hosts",
}
#: Seconds for one host that is right, with the start of Ansible.
AIM_S = 3.0
#: The fleets on paper, the cores of their controller, and the minutes that nobody minds waiting.
BIG = (1_000, 10_000)
CORES = 16
PATIENCE_MINUTES = 15
#: Seconds there and back over a slow network, and how often a host that is right is asked something.
SLOW_NETWORK_S = 0.1
ROUND_TRIPS = 3


@dataclasses.dataclass(frozen=True)
class Cost:
    """One run: seconds on the clock, CPU seconds of the controller's processes, of its main process among these, and of
    all others on the machine."""

    wall_s: float
    controller_s: float
    main_s: float
    others_s: float


@dataclasses.dataclass(frozen=True)
class Fit:
    """A straight line through figures by number of hosts: what a run costs at all, and what each host adds."""

    fixed: float
    per_host: float
    #: The share of the variance that the line explains, 0 to 1.
    r_squared: float

    @classmethod
    def through(cls, points: Sequence[tuple[int, float]]) -> Fit:
        """Least squares."""
        hosts, figures = [float(hosts) for hosts, _figure in points], [figure for _hosts, figure in points]
        line = statistics.linear_regression(hosts, figures)
        return cls(line.intercept, line.slope, statistics.correlation(hosts, figures) ** 2)

    def at(self, hosts: int) -> float:
        return self.fixed + self.per_host * hosts


@dataclasses.dataclass
class Figures:
    """All that has been measured. The variants differ in one setting from the run `replay` over the largest fleet."""

    forks: int
    services: int
    backends: int
    #: By kind of run and number of hosts.
    costs: dict[tuple[str, int], list[Cost]] = dataclasses.field(default_factory=dict)
    variants: dict[str, list[Cost]] = dataclasses.field(default_factory=dict)
    #: MiB of the controller by number of forks.
    memory: dict[int, float] = dataclasses.field(default_factory=dict)
    #: CPU seconds of one call of what stands for ssh.
    exec_s: list[float] = dataclasses.field(default_factory=list)

    @property
    def sizes(self) -> list[int]:
        return sorted({size for _kind, size in self.costs})

    def rounds(self, kind: str, size: int, part: str) -> report.Rounds:
        return report.Rounds(tuple(getattr(cost, part) for cost in self.costs[kind, size]))

    def fit(self, kind: str, part: str) -> Fit:
        return Fit.through([(size, value) for size in self.sizes for value in self.rounds(kind, size, part).values])


def paragraph(text: str, first: str = "") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), 120, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )


def lines(figures: Figures) -> Iterator[str]:
    """The report."""
    number = len(figures.costs["again", figures.sizes[0]])
    yield from paragraph(
        f"""Measured on {report.machine()}: containers with systemd, {figures.services} services of {figures.backends}
        backends each, `--forks={figures.forks}`, {number} rounds, median and (smallest to largest). The hosts run on
        the controller's own cores here, so the time on the clock is that of both; elsewhere every host brings its
        own."""
    )
    yield ""
    rows = [
        [str(size), title, *(figures.rounds(kind, size, part).shown(1) for part in PARTS)]
        for size in figures.sizes
        for kind, title in KINDS.items()
    ]
    yield from report.table(["hosts", "run", *(f"seconds {what}" for what in PARTS.values())], rows)
    for part in (fits, other_settings, on_paper):
        yield ""
        yield from part(figures)


def fits(figures: Figures) -> Iterator[str]:
    """Whether the cost grows with the hosts and with nothing else, and what one of them costs."""
    yield "A straight line through all of these (least squares), in seconds:"
    yield ""
    rows = []
    for kind, title in KINDS.items():
        for part, what in PARTS.items():
            fit = figures.fit(kind, part)
            rows.append([title, what, f"{fit.fixed:.2f}", f"{fit.per_host:.3f}", f"{fit.r_squared:.4f}"])
    yield from report.table(["run", "seconds", "of a run at all", "and for each host", "R²"], rows)
    if figures.sizes[0] == 1:
        seconds = figures.rounds("again", 1, "wall_s")
        verdict = "met" if max(seconds.values) <= AIM_S else "missed"
        yield ""
        yield from paragraph(
            f"""One host that is right takes {seconds.shown()} s with the start of Ansible; the aim of {AIM_S:g} s is
            {verdict}."""
        )


def other_settings(figures: Figures) -> Iterator[str]:
    size = figures.sizes[-1]
    yield f"Nothing to change on {size} hosts, with one setting different:"
    yield ""
    plain = f"as above: `--forks={figures.forks}`, strategy `linear`, pipelining, no facts"
    rows = []
    for title, found in {plain: figures.costs["again", size], **figures.variants}.items():
        cells = [report.Rounds(tuple(getattr(cost, part) for cost in found)) for part in ("wall_s", "controller_s")]
        rows.append([title, *(cell.shown(1) for cell in cells)])
    yield from report.table(["setting", *(f"seconds {PARTS[part]}" for part in ("wall_s", "controller_s"))], rows)
    yield ""
    shown = ", ".join(f"{mib:.0f} MiB with {forks}" for forks, mib in sorted(figures.memory.items()))
    yield from paragraph(
        f"The controller's memory at its peak, all its processes together, by number of forks: {shown}."
    )


def on_paper(figures: Figures) -> Iterator[str]:
    """From what was measured to more hosts than fit here, with each step shown."""
    costs = {kind: figures.fit(kind, "controller_s").per_host for kind in KINDS}
    yield from paragraph(
        f"""**On paper: 1,000 and 10,000 hosts.** Nothing from here on is measured. A host costs its controller
        {costs["again"]:.2f} CPU seconds where nothing is to be changed, {costs["first"]:.2f} the first time. (One call
        of `podman exec`, which stands for ssh here, is {statistics.median(figures.exec_s):.2f} of these, and there are
        {ROUND_TRIPS} of them or more.) CPU is what a controller runs out of first, and its main process is one thread.
        As long as there are forks enough, a run takes whichever is longer of"""
    )
    yield ""
    yield "    CPU seconds of the controller / cores    and    CPU seconds of the main process"
    yield ""
    rows = [_on_paper_row(figures, hosts, kind) for hosts in BIG for kind in KINDS]
    head = ["hosts", "run", "CPU seconds of the controller", "of the main process", "minutes on 2 cores"]
    yield from report.table([*head, f"on {CORES} cores", f"playbooks at a time for {PATIENCE_MINUTES} minutes"], rows)
    yield ""
    yield from forks_and_memory(figures)
    yield from pull(figures)


def _on_paper_row(figures: Figures, hosts: int, kind: str) -> list[str]:
    controller, main = figures.fit(kind, "controller_s"), figures.fit(kind, "main_s")
    sums = [f"{fit.fixed:.1f} + {hosts:,} x {fit.per_host:.3f} = {fit.at(hosts):,.0f}" for fit in (controller, main)]
    minutes = [f"{max(controller.at(hosts) / cores, main.at(hosts)) / 60:,.1f}" for cores in (2, CORES)]
    playbooks = math.ceil(main.at(hosts) / 60 / PATIENCE_MINUTES)
    return [f"{hosts:,}", KINDS[kind], *sums, *minutes, str(playbooks)]


def forks_and_memory(figures: Figures) -> Iterator[str]:
    """How many forks keep the cores busy, and what memory they take."""
    host_s = figures.fit("again", "controller_s").per_host - figures.fit("again", "main_s").per_host
    rest_s = figures.fit("again", "others_s").per_host
    per_core = math.ceil((host_s + rest_s + ROUND_TRIPS * SLOW_NETWORK_S) / host_s)
    forks = per_core * CORES
    yield from paragraph(
        f"""**Forks.** For each host a fork works {host_s:.2f} s, and waits {rest_s:.2f} s for what the host does and,
        over a network with {SLOW_NETWORK_S:g} s there and back, {ROUND_TRIPS} x {SLOW_NETWORK_S:g} s for that. So
        ({host_s:.2f} + {rest_s:.2f} + {ROUND_TRIPS * SLOW_NETWORK_S:.2f}) / {host_s:.2f} = {per_core} forks keep a core
        busy (rounded up): `--forks={forks}` for {CORES} cores.""",
        "- ",
    )
    few, many = min(figures.memory), max(figures.memory)
    if few < many:
        fork_mib = (figures.memory[many] - figures.memory[few]) / (many - few)
        total_mib = figures.memory[few] + (forks - few) * fork_mib
        yield from paragraph(
            f"""**Memory.** {many - few} forks more were {figures.memory[many]:.0f} - {figures.memory[few]:.0f} MiB,
            their `podman exec` included, so one is {fork_mib:.0f} MiB: {figures.memory[few]:.0f} + ({forks} - {few}) x
            {fork_mib:.0f} MiB = {total_mib / 1024:.1f} GiB for {forks} forks.""",
            "- ",
        )


def pull(figures: Figures) -> Iterator[str]:
    """What a host would spend that is its own controller."""
    controller, others = figures.fit("again", "controller_s"), figures.fit("again", "others_s")
    total_s = controller.at(1) + others.per_host
    yield from paragraph(
        f"""**Pull.** A host that runs the playbook on itself is a controller of one: {controller.fixed:.2f} +
        {controller.per_host:.2f} + {others.per_host:.2f} = {total_s:.1f} CPU seconds a run, however many hosts there
        are.""",
        "- ",
    )


def plot(figures: Figures) -> str:
    """The Markdown that shows the figures over the number of hosts."""
    series = {
        f"{title}: {PARTS[part]}": {float(size): figures.rounds(kind, size, part) for size in figures.sizes}
        for kind, title in KINDS.items()
        for part in ("wall_s", "controller_s")
    }
    return report.plot_lines("fleet", "A run over a fleet", ("hosts", "seconds"), series, logarithmic=False)
