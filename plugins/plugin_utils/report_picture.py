# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as a picture: clients, balancers, services, backends. Pure.

What is down is told by a cross, a dashed line and a word, and not by its colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status import fleet
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status.table import Level
from markupsafe import Markup

from .report_view import NONE, Backend, Service, View

#: More would be a carpet. Those with problems come first.
MOST_SERVICES, MOST_BACKENDS, MOST_BALANCERS = 12, 8, 12
_BOX, _CLIENTS_BOX, _HEIGHT, _GAP, _TOP = 200, 90, 44, 10, 40
_CLIENTS, _BALANCERS, _SERVICES, _BACKENDS = 8, 150, 440, 730
_ALL = 940
_MOST_CHARACTERS = 25


class _Node(NamedTuple):
    x: int
    y: float
    width: int
    name: str
    below: str
    level: Level

    @property
    def middle(self) -> float:
        return self.y + _HEIGHT / 2


def chosen(services: Sequence[Service]) -> list[Service]:
    """The services of the picture, in the order of the page."""
    first = sorted(services, key=lambda service: (("bad", "odd", "").index(service.level), service.number))
    return sorted(first[:MOST_SERVICES], key=lambda service: service.number)


def picture(view: View) -> Markup:
    """An inline SVG."""
    services = chosen(view.services)
    backends: list[list[_Node]] = []
    y: float = _TOP
    for service in services:
        found = _backends(service, y)
        backends.append(found)
        y = found[-1].y + _HEIGHT + 3 * _GAP if found else y + _HEIGHT + 3 * _GAP
    balancers = list(view.hosts)[:MOST_BALANCERS]
    height = max(y, _TOP + len(balancers) * (_HEIGHT + _GAP) + _GAP)
    tops, start = [], float(_TOP)
    for found in backends:
        end = found[-1].y if found else start
        tops.append((start + end) / 2)
        start = end + _HEIGHT + 3 * _GAP
    middle = [_service(service, at) for service, at in zip(services, tops, strict=True)]
    step = (height - _TOP) / max(1, len(balancers))
    left = {
        host: _balancer(host, view.hosts[host], _TOP + step * (at + 0.5) - _HEIGHT / 2)
        for at, host in enumerate(balancers)
    }
    clients = _Node(_CLIENTS, (height + _TOP - _HEIGHT) / 2, _CLIENTS_BOX, "clients", "", "")
    return Markup(
        '<svg role="img" aria-labelledby="picture-title picture-words" viewBox="0 0 {width} {height}" '
        'width="{width}" height="{height}"><title id="picture-title">Clients, balancers, services, backends</title>'
        '<desc id="picture-words">{words}</desc>{heads}{lines}{nodes}</svg>'
    ).format(
        width=_ALL,
        height=round(height),
        words=_words(services),
        heads=Markup("").join(
            Markup('<text class="head" x="{}" y="22">{}</text>').format(x, word)
            for x, word in ((_BALANCERS, "balancers"), (_SERVICES, "services"), (_BACKENDS, "backends"))
        ),
        lines=Markup("").join(_edges(clients, left, services, middle, backends)),
        nodes=Markup("").join(
            _drawn(node) for node in [clients, *left.values(), *middle, *(node for found in backends for node in found)]
        ),
    )


def _words(services: Sequence[Service]) -> str:
    """The same for those who do not see it."""
    return "; ".join(f"{item.name} on {', '.join(item.hosts)}: {item.condition}" for item in services) or "no services"


def _balancer(host: str, info: Any, y: float) -> _Node:
    if not fleet.readable(info):
        return _Node(_BALANCERS, y, _BOX, host, "not read", "bad")
    if info.get("forwarding") is False:
        return _Node(_BALANCERS, y, _BOX, host, "does not forward", "bad")
    return _Node(_BALANCERS, y, _BOX, host, *(("drifted", "odd") if info.get("drift") else (str(info["engine"]), "")))


def _service(service: Service, y: float) -> _Node:
    below = service.condition if service.condition == NONE else service.listen
    return _Node(_SERVICES, y, _BOX, service.name, below, "bad" if below == service.condition else "")


def _backends(service: Service, top: float) -> list[_Node]:
    """Each once, as it is where it is worst."""
    worst: dict[tuple[str, str], Backend] = {}
    for item in service.backends:
        key = item.name, item.address
        if key not in worst or ("bad", "odd", "").index(item.level) < ("bad", "odd", "").index(worst[key].level):
            worst[key] = item
    shown = sorted(worst.values(), key=lambda item: ("bad", "odd", "").index(item.level))
    left_out = len(shown) - MOST_BACKENDS
    shown = shown[: MOST_BACKENDS - 1] if left_out > 0 else shown
    found = []
    for at, item in enumerate(shown):
        words = ", ".join(item.words) + (f" on {', '.join(item.hosts)}" if item.some and item.level else "")
        y = top + at * (_HEIGHT + _GAP)
        found.append(_Node(_BACKENDS, y, _BOX, item.name, words if item.level else item.address, item.level))
    if left_out > 0:
        y = top + len(shown) * (_HEIGHT + _GAP)
        found.append(_Node(_BACKENDS, y, _BOX, f"{left_out + 1} more", "see the list", ""))
    return found


def _edges(
    clients: _Node,
    balancers: dict[str, _Node],
    services: Sequence[Service],
    middle: Sequence[_Node],
    backends: Sequence[Sequence[_Node]],
) -> Iterator[Markup]:
    for node in balancers.values():
        yield _edge(clients, node, node.level)
    for service, node, found in zip(services, middle, backends, strict=True):
        for host in service.hosts:
            if host in balancers:
                yield _edge(balancers[host], node, node.level)
        for backend in found:
            yield _edge(node, backend, backend.level)


def _edge(one: _Node, other: _Node, level: Level) -> Markup:
    x1, x2, half = one.x + one.width, other.x, (other.x - one.x - one.width) / 2
    line = Markup('<path class="edge {}" d="M{} {:.0f}C{:.0f} {:.0f} {:.0f} {:.0f} {} {:.0f}"/>').format(
        level, x1, one.middle, x1 + half, one.middle, x2 - half, other.middle, x2, other.middle
    )
    if level != "bad":
        return line
    x, y = x2 - 14, other.middle
    cross = Markup('<path class="cross" d="M{0} {2:.0f}L{1} {3:.0f}M{0} {3:.0f}L{1} {2:.0f}"/>')
    return line + cross.format(x - 6, x + 6, y - 6, y + 6)


def _drawn(node: _Node) -> Markup:
    mark = {"bad": "✕ ", "odd": "! "}.get(node.level, "")
    return Markup(
        '<g class="node {level}"><title>{name} {below}</title>'
        '<rect x="{x}" y="{y:.0f}" width="{width}" height="{height}" rx="6"/>'
        '<text x="{left}" y="{first:.0f}">{short}</text><text class="below" x="{left}" y="{second:.0f}">{mark}{words}'
        "</text></g>"
    ).format(
        level=node.level,
        name=node.name,
        below=node.below,
        x=node.x,
        y=node.y,
        width=node.width,
        height=_HEIGHT,
        left=node.x + 10,
        first=node.y + (18 if node.below else 27),
        second=node.y + 36,
        short=_short(node.name),
        mark=mark,
        words=_short(node.below),
    )


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
