# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet as one web page that needs nothing else. Pure.

All that users have typed comes in as values of `Markup.format`, which escapes them. The page also forbids every script
and style but its own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status import fleet, table
from markupsafe import Markup

from .report_picture import chosen, picture
from .report_style import SCRIPT, STYLE
from .report_timeline import DAY, STATES, falls, timeline
from .report_view import NONE, Backend, Event, Problem, Service, View, ago, happened, view

#: With more services, only those with problems are open at first.
_MOST_OPEN = 20
_MOST_LINKS = 8
_MOST_EVENTS = 12
_WORDS = {"bad": "✕ ", "odd": "! ", "": ""}

_PAGE = Markup("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {script_hash}; \
style-src {style_hash}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#services">Skip to the services</a>
<header>
<h1>natlb: {balancers}</h1>
<p>{summary}</p>
<p class="soft">Read at <time datetime="{time}">{time}</time>.</p>
</header>
<main>
{sections}
</main>
<script>{script}</script>
</body>
</html>
""")


def page(hosts: Mapping[str, Any], now: datetime) -> str:
    """The page of {host: what the module `balancer_info` returned}, read at `now` (UTC)."""
    found = view(hosts)
    sections = [
        _section("problems", "What is wrong now", _problems(found, now)),
        _section("topology", "Who serves whom", _topology(found)),
        _section("happened", "What happened in the last 24 hours", _happened(found.services, now)),
        _section("services", "Services", _services(found.services, now)),
        _section("differences", "What differs between balancers", _differences(found)),
        _section("warnings", "Warnings and remedies", _warnings(found)),
        _section("balancers", "Balancers and connection tracking", _balancers(found.hosts)),
    ]
    bad = sum(problem.level == "bad" for problem in found.problems)
    return str(
        _PAGE.format(
            script_hash=_hash(SCRIPT),
            style_hash=_hash(STYLE),
            title=f"natlb: {bad} problems" if bad else "natlb: all is well",
            balancers=_count(len(hosts), "balancer"),
            summary=_summary(found),
            time=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            style=Markup(STYLE),
            script=Markup(SCRIPT),
            sections=Markup("\n").join(sections),
        )
    )


def _hash(text: str) -> Markup:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup("'sha256-{}'").format(digest)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _summary(found: View) -> str:
    down: dict[tuple[str, str], bool] = {}
    for service in found.services:
        for backend in service.backends:
            key = service.name, backend.address
            down[key] = down.get(key, False) or backend.level == "bad"
    none = sum(service.condition == NONE for service in found.services)
    words = [f"{_count(len(found.services), 'service')} with {_count(len(down), 'backend')}"]
    words.append(f"{sum(down.values())} of the backends down" if any(down.values()) else "no backend down")
    words += [f"{_count(none, 'service')} without a backend that serves"] if none else []
    return ", ".join(words) + "."


def _section(anchor: str, title: str, content: Markup) -> Markup:
    return Markup('<section aria-labelledby="{0}"><h2 id="{0}" tabindex="-1">{1}</h2>\n{2}\n</section>').format(
        anchor, title, content
    )


# -- what is wrong -----------------------------------------------------------------------------------------------------


def _problems(found: View, now: datetime) -> Markup:
    if not found.problems:
        return Markup("<p>All backends of all services serve, and all balancers are as declared.</p>")
    return _listed(_problem(problem, now) for problem in found.problems)


def _listed(items: Iterable[Markup]) -> Markup:
    return Markup('<ol class="problems">{}</ol>').format(Markup("\n").join(items))


def _problem(problem: Problem, now: datetime) -> Markup:
    of = _of(problem)
    why = Markup('<p class="why">{}</p>').format(problem.why) if problem.why else ""
    count = falls(problem.history, now)
    return Markup(
        '<li class="{level}"><p class="what">{mark}<strong>{subject}</strong>{of} {says}{since}</p>{why}'
        '<p class="soft">on {hosts}{often}{remedy}</p></li>'
    ).format(
        level=problem.level,
        mark=_WORDS[problem.level],
        subject=problem.subject,
        of=of,
        says=problem.says,
        since=Markup(" since {}").format(_time(problem.since, now)) if problem.since else "",
        often=f"; went down {count} times in 24 h" if count > 1 else "",
        remedy=f"; {problem.remedy}" if problem.remedy else "",
        why=why,
        hosts=", ".join(problem.hosts),
    )


def _of(problem: Problem) -> Markup:
    if not problem.services:
        return Markup("")
    if problem.services[0].name == problem.subject:
        return Markup(' (<a href="#{}">service</a>)').format(problem.services[0].anchor)
    return _of_services(problem.services)


def _of_services(services: Sequence[Service]) -> Markup:
    links = [Markup('<a href="#{}">{}</a>').format(service.anchor, service.name) for service in services[:_MOST_LINKS]]
    more = len(services) - _MOST_LINKS
    return Markup(" of {}{}").format(Markup(", ").join(links), f" and {more} more services" if more > 0 else "")


def _time(since: str, now: datetime) -> Markup:
    age = ago(since, now)
    if not age:
        return Markup("{}").format(since)
    return Markup('<time datetime="{0}">{0}</time> (for {1})').format(since, age)


# -- what happened -----------------------------------------------------------------------------------------------------


def _happened(services: Sequence[Service], now: datetime) -> Markup:
    found = happened(services, now - DAY)
    if not found:
        return Markup("<p>Health checks have found no change.</p>")
    more = f"and {len(found) - _MOST_EVENTS} more, which stand with the backends" if len(found) > _MOST_EVENTS else ""
    return Markup('<ol class="events">{}</ol><p class="soft">{}</p>').format(
        Markup("\n").join(_event(event, now) for event in found[:_MOST_EVENTS]), more
    )


def _event(event: Event, now: datetime) -> Markup:
    change = event.change
    level = "bad" if change.state == "down" else ""
    return Markup(
        '<li><time datetime="{since}">{since}</time> ({ago} ago) <strong>{name}</strong>{of} '
        '<span class="{level}">{mark}{state}</span>{why}</li>'
    ).format(
        since=change.since,
        ago=ago(change.since, now),
        name=event.name,
        of=_of_services(event.services),
        level=level,
        mark=_WORDS[level],
        state=STATES.get(change.state, change.state),
        why=f": {change.reason}" if change.reason else "",
    )


# -- services ----------------------------------------------------------------------------------------------------------


def _topology(found: View) -> Markup:
    shown, every = len(chosen(found.services)), len(found.services)
    words = f"{shown} of {every} services, those with problems first." if shown < every else ""
    return Markup(
        '<p class="soft">A cross and a dashed frame: down. A dotted frame: not as declared. {}</p>'
        '<div class="scrolls" role="region" aria-label="Picture of the fleet" tabindex="0">{}</div>'
    ).format(words, picture(found))


_CONTROLS = Markup("""<div class="controls" id="controls" hidden>
<label for="search">Search for a service, a backend or an address<input id="search" type="search" autocomplete="off">\
</label>
<label for="filter">Show<select id="filter"><option value="">all services</option>
<option value="wrong">services with problems</option><option value="none">services that nobody serves</option>
<option value="down">a backend is down</option><option value="override">a backend is drained or disabled</option>
</select></label>
<button type="button" id="open">Open all</button><button type="button" id="close">Close all</button>
</div>
<p class="soft" id="count" aria-live="polite"></p>
""")


def _services(services: Sequence[Service], now: datetime) -> Markup:
    if not services:
        return Markup("<p>No balancer that could be read has a service.</p>")
    note = Markup(
        '<p class="soft">Bars: the frame is the share that a backend is to get now, the filling is its part of the '
        "connections since the rules were loaded. After a change they need time to meet. Strips: the last 24 hours, "
        "high where it was down, and low where it was up.</p>"
    )
    every_open = len(services) <= _MOST_OPEN
    return (
        _CONTROLS + note + Markup("\n").join(_service(item, every_open or bool(item.level), now) for item in services)
    )


def _service(service: Service, is_open: bool, now: datetime) -> Markup:
    return Markup(
        '<details class="service" id="{anchor}" data-kinds="{kinds}"{open}><summary><strong>{name}</strong> {listen} '
        '<span class="{level}">{mark}{condition}</span></summary><div class="inside">'
        '<p class="soft">{about}; on {hosts}</p>{table}</div></details>'
    ).format(
        anchor=service.anchor,
        kinds=" ".join(_kinds(service)),
        open=Markup(" open") if is_open else "",
        name=service.name,
        listen=service.listen,
        level=service.level,
        mark=_WORDS[service.level],
        condition=service.condition,
        about=", ".join(service.about),
        hosts=", ".join(service.hosts),
        table=_backends(service, now),
    )


def _kinds(service: Service) -> Iterator[str]:
    if service.level:
        yield "wrong"
    if service.condition == NONE:
        yield "none"
    words = {word for backend in service.backends for word in backend.words}
    if "down" in words:
        yield "down"
    if words & {"drained", "disabled"}:
        yield "override"


_HEAD = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>")
_COLUMNS = (
    *(("Backend", ""), ("Address", ""), ("State", ""), ("Expected", "n"), ("Real", "n"), ("Shares", "")),
    *(("New", "n"), ("Active", "n")),
)


def _backends(service: Service, now: datetime) -> Markup:
    if not service.backends:
        return Markup("<p>It has no backends.</p>")
    some = any(backend.some for backend in service.backends)
    told = any(backend.since or backend.why or backend.history for backend in service.backends)
    columns = [_COLUMNS[0], *([("On", "")] if some else []), *_COLUMNS[1:], *([("Since, why", "")] if told else [])]
    head = Markup("").join(Markup('<th scope="col" class="{}">{}</th>').format(kind, name) for name, kind in columns)
    return _HEAD.format(head, Markup("").join(_row(item, some, told, now) for item in service.backends))


_ROW = Markup(
    '<tr><th scope="row" data-label="Backend">{name}</th>{on}<td class="address" data-label="Address">{address}</td>'
    '<td data-label="State"><span class="{level}">{mark}{words}</span></td>'
    '<td class="n" data-label="Expected">{expected}</td><td class="n" data-label="Real">{real}</td>'
    '<td data-label="Shares">{bars}</td><td class="n" data-label="New">{new}</td>'
    '<td class="n" data-label="Active">{active}</td>{why}</tr>'
)


def _row(backend: Backend, some: bool, told: bool, now: datetime) -> Markup:
    on = Markup('<td data-label="On">{}</td>').format(", ".join(backend.hosts)) if some else ""
    why = Markup("")
    if told:
        since = _time(backend.since, now) if backend.since else ""
        past = timeline(backend.history, now)
        why = Markup('<td data-label="Since, why"><div>{}{}{}{}</div></td>').format(
            since, ": " if since and backend.why else "", backend.why, past
        )
    weight = "" if backend.weight == 1 else f", weight {backend.weight}"
    return _ROW.format(
        name=backend.name,
        on=on,
        address=backend.address,
        level=backend.level,
        mark=_WORDS[backend.level],
        words=", ".join(backend.words) + weight,
        expected=table.percent(backend.expected),
        real=table.percent(backend.real) + (", more than chance" if backend.far else ""),
        bars=_bars(backend.expected or 0.0, backend.real or 0.0),
        new="-" if backend.new is None else f"{backend.new:,}",
        active="-" if backend.active is None else f"{backend.active:,}",
        why=why,
    )


def _bars(expected: float, real: float) -> Markup:
    """The numbers stand beside it."""
    return Markup(
        '<svg class="bars" viewBox="0 0 102 16" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        '<rect class="ground" x="1" y="1" width="100" height="14"/>'
        '<rect class="real" x="1" y="5" width="{:.1f}" height="6"/>'
        '<rect class="expected" x="1" y="1" width="{:.1f}" height="14"/></svg>'
    ).format(min(100.0, 100 * real), min(100.0, 100 * expected))


# -- balancers ---------------------------------------------------------------------------------------------------------


def _differences(found: View) -> Markup:
    if not found.differences:
        return Markup("<p>Nothing: balancers with the same services treat them alike.</p>")
    return _listed(
        Markup('<li class="{}"><p><strong>{}</strong>{} {} <strong>on {}</strong></p></li>').format(
            item.level or "fine", item.subject, _of(item), item.says, ", ".join(item.hosts)
        )
        for item in found.differences
    )


def _warnings(found: View) -> Markup:
    if not found.warnings:
        return Markup("<p>There are no warnings.</p>")
    return _listed(
        Markup('<li><p>{}</p><p class="soft">on {}</p></li>').format(text, ", ".join(hosts))
        for text, hosts in found.warnings.items()
    )


_BALANCER = Markup(
    '<tr><th scope="row" data-label="Balancer">{host}</th><td data-label="Condition"><span class="{level}">{condition}'
    '</span></td><td data-label="Engine">{engine}</td><td data-label="Connections"><span>{tracked}</span></td>'
    '<td data-label="Source NAT"><span>{egress}</span></td></tr>'
)


def _balancers(hosts: Mapping[str, Any]) -> Markup:
    names = ("Balancer", "Condition", "Engine", "Connections", "Source NAT")
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(name) for name in names)
    return _HEAD.format(head, Markup("").join(_balancer(str(host), info) for host, info in hosts.items()))


def _balancer(host: str, info: Any) -> Markup:
    condition = table.condition_of(info)
    read = info if fleet.readable(info) else {}
    usage = read.get("conntrack") or {}
    tracked = Markup("not known")
    if usage.get("max"):
        fill = int(usage.get("count") or 0) / int(usage["max"])
        tracked = Markup("{}{}").format(table.tracking(usage), _bars(0.0, fill))
    more = ["forwards all traffic, not only what is declared"] if read.get("forwards_transit") else []
    return _BALANCER.format(
        host=host,
        level="" if condition == "ok" else "bad",
        condition=condition,
        engine=str(read.get("engine") or "-"),
        tracked=tracked,
        egress="; ".join([*map(table.egress, read.get("egress") or []), *more]) or "none",
    )
