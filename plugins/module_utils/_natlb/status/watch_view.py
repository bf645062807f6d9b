# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `natlb watch` shows: a screen that is drawn again and again, or lines. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..model.effective import EffectiveBackend, Findings, Overrides, deviations, effective_backends
from ..model.entities import Config, Service
from ..model.values import endpoint
from ..plan.totals import Key
from .activity import Reading
from .columns import Row, aligned, telling
from .news import News

HEADER = ("SERVICE", "BACKEND", "ADDRESS", "STATE", "HEALTH", "NEW/S", "ACTIVE")
_NUMBERS = ("NEW/S", "ACTIVE")
#: Of a screen, what news may take.
_NEWS_SHARE = 0.4


class View(NamedTuple):
    """What is known at one moment. The rates are None before the second reading, and `reading` before the first."""

    config: Config
    overrides: Overrides
    findings: Findings
    reading: Reading | None = None
    rates: Mapping[Key, float] | None = None


def screen(head: str, view: View, news: Sequence[str], width: int, height: int) -> list[str]:
    """Lines that fit a terminal: a head, backends, and the last news. Long lines are folded."""
    tail = [line for item in news for line in fold(item, width)]
    tail = tail[-max(3, int(height * _NEWS_SHARE)) :]
    top = fold(head, width)
    room = max(2, height - len(top) - len(tail) - 1)
    keys = _order(view, room)
    for count in range(min(len(keys), room), 0, -1):
        body = [line for row in _table(view, keys[:count]) for line in fold(row, width)]
        more = [f"… and {len(keys) - count} more backends"] * (count < len(keys))
        if len(body) + len(more) <= room or count == 1:
            return [*top, *body, *more, "", *tail][:height]
    return [*top, "no backends", "", *tail][:height]


def fold(line: str, width: int) -> list[str]:
    """A line on as many of a terminal as it needs; those behind the first are indented."""
    return textwrap.wrap(line, max(width, 20), subsequent_indent="    ", break_on_hyphens=False) or [""]


def _order(view: View, room: int) -> list[Key]:
    """The backends to show: all as declared, or, where that is too many, those first that need a look."""
    keys = [(service.name, backend.key) for service in view.config.services for backend in service.backends]
    if len(keys) <= room:
        return keys
    odd = {
        (service.name, item.declared.key)
        for service, items in deviations(view.config, view.overrides, view.findings)
        for item in items
        if item.because != "declared"
    }
    rates, active = view.rates or {}, view.reading.active if view.reading else {}
    return sorted(keys, key=lambda key: (key not in odd, -rates.get(key, 0.0), -active.get(key, 0)))


def _table(view: View, keys: Sequence[Key]) -> list[str]:
    services = {service.name: service for service in view.config.services}
    standing: dict[str, dict[str, EffectiveBackend]] = {}
    rows: list[Row] = [HEADER]
    for name, key in keys:
        if name not in standing:
            found = effective_backends(services[name], view.overrides, view.findings)
            standing[name] = {item.declared.key: item for item in found}
        rows.append(_row(view, services[name], standing[name][key], (name, key)))
    return aligned(telling(rows, ("",)), _NUMBERS)


def _row(view: View, service: Service, item: EffectiveBackend, key: Key) -> Row:
    backend = item.declared
    rate = None if view.rates is None else view.rates.get(key, 0.0)
    return (
        service.name,
        backend.name,
        endpoint(backend.address, backend.port),
        item.intended.state + (" (backup)" if backend.backup else ""),
        item.finding.state if item.finding else "",
        "-" if rate is None else f"{rate:.1f}",
        "-" if view.reading is None else str(view.reading.active.get(key, 0)),
    )


def counters(view: View, before: Reading | None) -> list[News]:
    """A line for each service with new connections, or with another number of active ones than before."""
    if view.reading is None or view.rates is None or before is None:
        return []
    rates, active = view.rates, view.reading.active
    found = []
    for service in view.config.services:
        keys = [(service.name, backend.key) for backend in service.backends]
        if not any(rates.get(key) or active.get(key, 0) != before.active.get(key, 0) for key in keys):
            continue
        backends = [
            {"name": one.name, "new_per_second": round(rates.get(key, 0.0), 2), "active": active.get(key, 0)}
            for one, key in zip(service.backends, keys)
        ]
        words = ", ".join(f"{b['name']} {b['new_per_second']:.1f}/s {b['active']}" for b in backends)
        total, now = sum(rates.get(key, 0.0) for key in keys), sum(active.get(key, 0) for key in keys)
        message = f"{service.name}: {total:.1f} new/s, {now} active ({words})"
        found.append(News("counters", message, {"service": service.name, "backends": backends}))
    return found


def limited(config: Config, service: str | None) -> Config:
    """The same with this service alone."""
    return config if service is None else Config(tuple(s for s in config.services if s.name == service), ())


def concerns(news: News, services: Iterable[str]) -> bool:
    """Whether it is of one of these services, or of the host."""
    said: Any = news.fields.get("service")
    return not said or any(name in services for name in str(said).split(", "))
