# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of a balancer (`health/overview.py`), as a table for people. Pure.

It is at most 100 columns wide. Wide columns are folded; last results that are long stand below their checks then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .columns import WIDTH, Row, aligned, duration, folded, listed, telling, wrapped

HEADER = ("BACKEND", "CHECK", "SERVICES", "EVERY", "TIMEOUT", "STATE", "SINCE", "CHANGES", "TOOK", "NEXT", "LAST")
_NUMBERS = ("EVERY", "TIMEOUT", "TOOK", "NEXT")
#: Last results have a column where none is longer.
_MOST_LAST = 30
#: Last results that need no line of their own: the state says the same.
_FINE = ("-", "ok")


def lines(checks: Sequence[Mapping[str, Any]], now: datetime, width: int = WIDTH) -> list[str]:
    """A line a check; columns that say nothing are left out."""
    if not checks:
        return []
    rows = [HEADER, *(_row(check, now) for check in checks)]
    table = aligned(telling(rows), _NUMBERS)
    if max(map(len, table)) <= width:
        return table
    if max(len(row[-1]) for row in rows) <= _MOST_LAST:
        return [line for each in folded(telling(rows), _NUMBERS, width) for line in each]
    head, *each = folded(telling([row[:-1] for row in rows]), _NUMBERS, width)
    found = list(head)
    for row, its in zip(rows[1:], each):
        found += [*its, *(wrapped(row[-1], 4, width=width) if row[-1] not in _FINE else [])]
    return found


def _row(check: Mapping[str, Any], now: datetime) -> Row:
    backends, last = check["backends"], check["last"]
    changing = bool(check["against"])
    interval_s = (check["fast_interval_s"] if changing else None) or check["interval_s"]
    return (
        listed(list(dict.fromkeys(item["name"] for item in backends)), 1),
        str(check["check"]),
        listed(list(dict.fromkeys(item["service"] for item in backends)), 2),
        duration(interval_s),
        duration(check["timeout_s"]),
        str(check["state"]),
        _age(check["since"], now),
        _changes(check),
        "-" if last["took_s"] is None else _precise(last["took_s"]),
        _next(check),
        _last(check),
    )


def _changes(check: Mapping[str, Any]) -> str:
    """How far it is on its way to another state."""
    damped = bool(check["flapping"]) and check["state"] == "down"
    if not check["against"] and not damped:
        return "-"
    return f"{check['against']}/{check['needed']}" + (" flapping" if damped else "")


def _next(check: Mapping[str, Any]) -> str:
    if check["next_in_s"] is not None:
        return duration(check["next_in_s"])
    return "now" if check["against"] is not None else "-"


def _last(check: Mapping[str, Any]) -> str:
    """The last result, or, where that is not known, why the backend is down."""
    last = check["last"]
    if last["result"] is None:
        return str(check["reason"]) or "-"
    return str(last["reason"] or ("not made" if last["result"] == "unasked" else "ok"))


def _age(since: str | None, now: datetime) -> str:
    if not since:
        return "-"
    try:
        # Python 3.9 and 3.10 do not read the Z.
        began = datetime.fromisoformat(since.replace("Z", "+00:00"))
        return duration(max(0.0, (now - began).total_seconds()))
    except (ValueError, TypeError):
        return since


def _precise(seconds: float) -> str:
    return f"{seconds * 1000:.1f}ms" if seconds < 0.01 else duration(seconds)
