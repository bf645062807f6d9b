# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables for people: columns that are aligned, and those left out that say nothing. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Sequence

#: Of a terminal on which tables are read, mail and tickets included.
WIDTH = 100
_GAP = 2
#: What textwrap takes for a part of a word: a space that does not break.
_BOUND = "\xa0"
_COMMAND = re.compile("`[^`]+`")

Row = tuple[str, ...]


def aligned(rows: Sequence[Row], numbers: Collection[str] = ()) -> list[str]:
    """Lines of a table whose first row is its header; columns of these names are flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for name, cell, width in zip(rows[0], row, widths)
        ).rstrip()
        for row in rows
    ]


def folded(rows: Sequence[Row], numbers: Collection[str] = (), width: int = WIDTH) -> list[list[str]]:
    """The lines of each row of a table that is not wider: the widest columns are folded. Numbers are not, and no column
    gets narrower than its header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    while sum(widths) + _GAP * (len(widths) - 1) > width:
        wide = [at for at, name in enumerate(rows[0]) if name not in numbers and widths[at] > len(name)]
        if not wide:
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    if all(len(cell) <= size for row in rows for cell, size in zip(row, widths)):
        return [[line] for line in aligned(rows, numbers)]
    cut = [[textwrap.wrap(cell, size) or [""] for cell, size in zip(row, widths)] for row in rows]
    tall = [
        [tuple(cell[at] if at < len(cell) else "" for cell in row) for at in range(max(map(len, row)))] for row in cut
    ]
    lines = iter(aligned([rows[0], *(line for row in tall for line in row)], numbers)[1:])
    return [[next(lines) for _line in row] for row in tall]


def wrapped(text: str, indent: int = 0, hanging: int = 0, width: int = WIDTH) -> list[str]:
    """The text in lines that are not wider. A word that is wider (a path, a name) stays whole, and so does a command in
    backticks, which somebody may copy."""
    found = textwrap.wrap(
        _COMMAND.sub(lambda command: command[0].replace(" ", _BOUND), text),
        width,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + hanging),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_BOUND, " ") for line in found]


def telling(rows: Sequence[Row], idle: Collection[str] = ("", "-")) -> list[Row]:
    """The same rows without the columns that hold nothing else below their header than these words."""
    shown = [at for at in range(len(rows[0])) if any(row[at] not in idle for row in rows[1:])]
    return [tuple(row[at] for at in shown) for row in rows]


def duration(seconds: float) -> str:
    """Two units at most: `350ms`, `2.5s`, `4m12s`, `3h`, `12d`."""
    if seconds < 1:
        return f"{max(seconds, 0.0) * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s" if seconds < 10 else f"{seconds:.0f}s"
    whole = int(seconds)
    for size, unit, below, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit}" + (f"{rest}{name}" if rest else "")
    return ""


def listed(names: Sequence[str], most: int = 3) -> str:
    """`web, api and 12 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
