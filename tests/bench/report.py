# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all benchmarks share: rounds with their spread, tables, plots, and their place in docs/performance.md."""

from __future__ import annotations

import argparse
import os
import pathlib
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Rounds:
    """One figure as measured in several rounds, in whatever unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __truediv__(self, other: Rounds) -> Rounds:
        """The ratio round by round: both were measured in turn, so a slow moment of the machine meets both."""
        return Rounds(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def shown(self, digits: int = 2) -> str:
        """Median, and from the smallest to the largest."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def machine() -> str:
    """The machine in words, for the head of a table."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "CPU"
    )
    release = dict(line.split("=", 1) for line in _lines("/etc/os-release") if "=" in line)
    system = release.get("PRETTY_NAME", platform.system()).strip('"')
    return f"{system}, Linux {platform.release()}, {os.cpu_count()} cores ({model}), Python {platform.python_version()}"


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def parser(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help=f"how often each is measured in turn ({rounds})")
    made.add_argument("--write", action="store_true", help="put the result into docs/performance.md")
    return made


def write(block: str, lines: Iterable[str]) -> None:
    """Put `lines` between the page's marks `<!-- block -->` and `<!-- end of block -->`."""
    first, last = f"<!-- {block} -->", f"<!-- end of {block} -->"
    page = PAGE.read_text()
    pattern = re.escape(first) + ".*" + re.escape(last)
    if not re.search(pattern, page, flags=re.DOTALL):
        raise SystemExit(f"{PAGE.name} has no {first} ... {last}")
    text = "\n".join([first, *lines, last])
    PAGE.write_text(re.sub(pattern, lambda _match: text, page, flags=re.DOTALL))


def plot_lines(
    name: str, title: str, axes: tuple[str, str], series: Mapping[str, Mapping[float, Rounds]], *, logarithmic: bool
) -> str:
    """Medians with their spread over a number, a line for each of `series`. Returns the Markdown that shows it."""
    figure, axis = _figure(title)
    for label, points in series.items():
        xs = sorted(points)
        middle = [points[x].median for x in xs]
        below = [points[x].median - min(points[x].values) for x in xs]
        above = [max(points[x].values) - points[x].median for x in xs]
        axis.errorbar(xs, middle, yerr=[below, above], marker="o", capsize=3, label=label)
    if logarithmic:
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.set_xlabel(axes[0])
    axis.set_ylabel(axes[1])
    axis.grid(visible=True, alpha=0.3)
    axis.legend(fontsize="small")
    return _save(figure, name, title)


def plot_bars(name: str, title: str, unit: str, bars: Mapping[str, Rounds]) -> str:
    """A horizontal bar for each figure, with its spread. Returns the Markdown that shows it."""
    figure, axis = _figure(title)
    labels = list(bars)
    middle = [bars[label].median for label in labels]
    below = [bars[label].median - min(bars[label].values) for label in labels]
    above = [max(bars[label].values) - bars[label].median for label in labels]
    axis.barh(labels, middle, xerr=[below, above], capsize=3)
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    axis.grid(visible=True, axis="x", alpha=0.3)
    return _save(figure, name, title)


def _figure(title: str):  # noqa: ANN202  (matplotlib is there for `make bench` only)
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    # The same figures give the same file: no date, and no identifiers drawn by chance.
    matplotlib.rcParams["svg.hashsalt"] = "natlb"
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axis.set_title(title)
    return figure, axis


def _save(figure, name: str, title: str) -> str:  # noqa: ANN001
    from matplotlib import pyplot  # noqa: PLC0415

    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / f"{name}.png", dpi=120, metadata={"Software": None})
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)
    return f"[![{title}](images/{name}.png)](images/{name}.svg)"
