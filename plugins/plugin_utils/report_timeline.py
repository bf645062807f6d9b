# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What health checks have found of a backend over time, as a strip of the last day and as a list. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any, NamedTuple

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status.columns import duration
from markupsafe import Markup

#: What the strip shows.
DAY = timedelta(hours=24)
_WIDTH, _HEIGHT = 240, 14
#: A short failure is seen nevertheless.
_LEAST_WIDTH = 2.0
#: How a state is called, if not by its own name.
STATES = {"drain": "asked for no new connections"}


class Change(NamedTuple):
    """From `since` on (ISO 8601, UTC) it was found to be in this state."""

    state: str
    since: str
    reason: str


class Episode(NamedTuple):
    """A state from one time to another, or until now."""

    change: Change
    began: datetime
    ended: datetime
    lasts: bool


def changes(backend: Mapping[str, Any]) -> tuple[Change, ...]:
    """Of what `balancer_info` tells; nothing of a balancer whose natlb does not know it yet."""
    found = [item for item in backend.get("health_history") or [] if isinstance(item, Mapping)]
    return tuple(Change(*(str(item.get(key) or "") for key in Change._fields)) for item in found)


def moment(since: str) -> datetime | None:
    """A time as it was typed into JSON; None where it is none."""
    try:
        found = datetime.fromisoformat(since.replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else None


def episodes(history: Sequence[Change], now: datetime) -> list[Episode]:
    """One behind the other. A change without a time is left out."""
    timed = [(change, began) for change in history if (began := moment(change.since)) is not None]
    ends = [began for _change, began in timed[1:]]
    found = [
        Episode(change, began, end or now, end is None)
        for (change, began), end in zip(timed, [*ends, None], strict=False)
    ]
    return [item for item in found if item.ended >= item.began]


def falls(history: Sequence[Change], now: datetime) -> int:
    """How often it went down within the last day."""
    return sum(item.change.state == "down" and item.began > now - DAY for item in episodes(history, now))


def timeline(history: Sequence[Change], now: datetime) -> Markup:
    """The strip, and behind it the list; nothing where nothing is known."""
    found = episodes(history, now)
    if not found:
        return Markup("")
    return Markup('{}<details class="past"><summary>History: {}</summary><ol>{}</ol></details>').format(
        _strip(found, now), _summary(found, history, now), Markup("").join(map(_entry, reversed(found)))
    )


def _summary(found: Sequence[Episode], history: Sequence[Change], now: datetime) -> str:
    down = sum(map(_down_s, found, repeat(now - DAY)))
    if not down:
        return f"last change {duration((now - found[-1].began).total_seconds())} ago"
    count = falls(history, now)
    return f"down for {duration(down)} of the last 24 h" + (f", went down {count} times" if count > 1 else "")


def _down_s(item: Episode, start: datetime) -> float:
    """How long it was down from `start` on, in seconds."""
    return max(0.0, (item.ended - max(item.began, start)).total_seconds()) if item.change.state == "down" else 0.0


def _entry(item: Episode) -> Markup:
    lasted = duration((item.ended - item.began).total_seconds())
    state = STATES.get(item.change.state, item.change.state)
    return Markup('<li><time datetime="{0}">{0}</time> <strong>{1}</strong> for {2}{3}{4}</li>').format(
        item.change.since,
        state,
        lasted,
        " until now" if item.lasts else "",
        f": {item.change.reason}" if item.change.reason else "",
    )


def _strip(found: Sequence[Episode], now: datetime) -> Markup:
    """Who is down is as high as the frame, so it is seen without colours too. The list says the same in words."""
    return Markup(
        '<svg class="strip" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true" '
        'focusable="false"><rect class="ground" x="0" y="0" width="{width}" height="{height}"/>{parts}</svg>'
    ).format(width=_WIDTH, height=_HEIGHT, parts=Markup("").join(_parts(found, now)))


def _parts(found: Sequence[Episode], now: datetime) -> Iterator[Markup]:
    for item in sorted(found, key=lambda item: item.change.state == "down"):
        start, end = (_WIDTH * (1 - (now - at) / DAY) for at in (item.began, item.ended))
        if end < 0:
            continue
        start = max(0.0, min(start, _WIDTH - _LEAST_WIDTH))
        height = {"down": _HEIGHT, "drain": _HEIGHT / 2}.get(item.change.state, _HEIGHT / 4)
        yield Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            {"down": "down", "drain": "drain"}.get(item.change.state, "up"),
            start,
            _HEIGHT - height,
            max(_LEAST_WIDTH, min(end, _WIDTH) - start),
            height,
        )
