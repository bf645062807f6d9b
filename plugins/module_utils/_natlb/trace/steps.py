# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a connection through the host, and how they are told. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

#: `ok` lets the connection pass; `stops` it, for certain; `may` stop it, as far as can be told from here; `fact` says
#: what happens to it.
Verdict = Literal["ok", "stops", "may", "fact"]
_SIGNS = {"ok": " ", "stops": "x", "may": "?", "fact": " "}


@dataclass(frozen=True)
class Step:
    """One place on the way. `where` is a word or two; `remedy` says what to do where it stops."""

    where: str
    verdict: Verdict
    said: str
    remedy: str = ""


@dataclass
class Trace:
    """All steps up to the first one that stops the connection."""

    connection: str
    steps: list[Step] = field(default_factory=list)

    @property
    def obstacle(self) -> Step | None:
        return next((step for step in self.steps if step.verdict == "stops"), None)

    @property
    def reachable(self) -> bool:
        return self.obstacle is None

    def take(self, steps: Sequence[Step]) -> bool:
        """Add steps; whether the connection comes to the next one."""
        for step in steps:
            self.steps.append(step)
            if step.verdict == "stops":
                return False
        return True

    def dump(self) -> dict[str, Any]:
        return {
            "connection": self.connection,
            "reachable": self.reachable,
            "steps": [dict(vars(step)) for step in self.steps],
        }


class Line(NamedTuple):
    """For people; where it has to be folded, what follows is indented by `hanging`."""

    text: str
    hanging: int = 0


def lines(trace: Trace) -> Iterator[Line]:
    """For people."""
    yield Line(trace.connection)
    width = max((len(step.where) for step in trace.steps), default=0)
    for step in trace.steps:
        yield Line(f"{_SIGNS[step.verdict]} {step.where.ljust(width)}  {step.said}", width + 4)
        if step.remedy:
            yield Line(f"  {' ' * width}  -> {step.remedy}", width + 7)
    obstacle = trace.obstacle
    doubts = sum(step.verdict == "may" for step in trace.steps)
    if obstacle is not None:
        yield Line(f"not reachable: stopped at {obstacle.where}")
    elif doubts:
        marked = f"one of the {doubts} steps" if doubts > 1 else "the step"
        yield Line(f"reachable, unless {marked} marked ? stops it")
    else:
        yield Line("reachable")
