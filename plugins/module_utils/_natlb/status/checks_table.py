# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of a balancer (`health/overview.py`), as a table for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from .columns import Row, aligned, duration, listed, telling

HEADER = ("BACKEND", "CHECK", "SERVICES", "EVERY", "TIMEOUT", "STATE", "SINCE", "CHANGES", "TOOK", "NEXT", "LAST")
_NUMBERS = ("EVERY", "TIMEOUT", "TOOK", "NEXT")


def lines(checks: Sequence[Mapping[str, Any]], now: datetime) -> list[str]:
    """A line a check; columns that say nothing are left out."""
    return aligned(telling([HEADER, *(_row(check, now) for check in checks)]), _NUMBERS) if checks else []


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
