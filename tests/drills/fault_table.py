# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the drills found, as the table of docs/reliability.md."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

#: The full form, with the numbers that the page shows, instead of a short one.
FULL = os.environ.get("NATLB_DRILLS") == "full"
#: Of the same seed come the same moments; another one may be given.
SEED = int(os.environ.get("NATLB_DRILLS_SEED", "1"))
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- made by `make drills` -->", "<!-- end of what is made -->"
HEAD = (
    "| fault | injected | connections lost | rules that are neither old nor new | files lost or broken "
    "| not repaired by the next run | what the operator sees |\n|---|---|---|---|---|---|---|\n"
)


@dataclass
class Row:
    """One fault: how often it was injected, and what came of it."""

    fault: str
    injected: int = 0
    #: None where no connection was opened meanwhile.
    opened: int | None = None
    lost: int = 0
    mixed: int = 0
    files: int = 0
    unrepaired: int = 0
    #: A message, or with an asterisk before it what happens instead of one.
    seen: str = ""
    remarks: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.mixed or self.files or self.unrepaired)

    def add(self, other: Row) -> None:
        self.injected += other.injected
        if other.opened is not None:
            self.opened = (self.opened or 0) + other.opened
        self.lost += other.lost
        self.mixed += other.mixed
        self.files += other.files
        self.unrepaired += other.unrepaired
        self.seen = self.seen or other.seen
        self.remarks += [remark for remark in other.remarks if remark not in self.remarks]

    def line(self) -> str:
        lost = "-" if self.opened is None else f"{self.lost} of {self.opened:,}"
        said = self.seen[1:] if self.seen.startswith("*") else f"`{shown(self.seen)}`" if self.seen else ""
        seen = "; ".join([said or "nothing; the run is carried out", *self.remarks])
        cells = [
            self.fault, f"{self.injected:,}", lost, f"{self.mixed}", f"{self.files}", f"{self.unrepaired}", seen,
        ]  # fmt: skip
        return "| " + " | ".join(cells) + " |\n"


#: By the name of the drill.
Rows = dict[str, Row]


def shown(message: str) -> str:
    """A message without what differs from run to run, in one cell of a table."""
    text = re.sub(r"/\S*?/(etc|run)/", lambda match: f"/{match[1]}/natlb/", " ".join(message.split()))
    text = re.sub(r"/\S*/(nft|ip6?tables)", r"\1", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2026-01-01 12:00:00", text)
    text = re.sub(r"process \d+", "process 4711", text)
    return text.replace("|", "\\|").replace("`", "'")


def table(rows: list[Row]) -> str:
    return HEAD + "".join(row.line() for row in rows)


def write(rows: list[Row], conditions: str) -> None:
    """Put the table into the page, between its markers."""
    text = PAGE.read_text()
    before, _begin, rest = text.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n{conditions}\n\n{END}{after}")
