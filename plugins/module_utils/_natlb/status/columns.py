# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables for people: columns that are aligned, and those left out that say nothing. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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


def endpoint(address: str, port: object) -> str:
    """Address and port as people write them; the address alone where there is no port."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
