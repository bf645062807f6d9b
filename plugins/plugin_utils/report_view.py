# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a page about a fleet tells, before it is a page: services, what is wrong, and what differs. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.values import endpoint
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status import fleet, table
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status.columns import duration
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.status.table import Level

from .report_timeline import Change, changes, moment

_MOST_WORDS = 3
#: Methods by which a share is a matter of turns or chance: a client does not stay with its backend.
_DEALT = ("round_robin", "random", "flow_hash")
_LEAST_CONNECTIONS, _LEAST_EXPECTED, _DEVIATIONS, _LEAST_DIFFERENCE = 100, 10, 5.0, 0.1
#: The condition of a service.
NONE = "no backend serves"
_NOBODY = "has no backend that serves: no client gets through"
_RANK = {"bad": 0, "odd": 1, "": 2}


class Backend(NamedTuple):
    """A backend as it stands on `hosts`; `real` is its part of what its family got there."""

    hosts: tuple[str, ...]
    #: Whether that is only a part of the balancers of its service.
    some: bool
    name: str
    address: str
    weight: int
    #: up, down, drained, …: one word for each thing that is to be said.
    words: tuple[str, ...]
    level: Level
    since: str
    why: str
    expected: float | None
    real: float | None
    #: Whether the real share differs from the expected one by more than chance.
    far: bool
    new: int | None
    active: int | None
    history: tuple[Change, ...]


class Service(NamedTuple):
    """A service on balancers that have it alike."""

    number: int
    name: str
    hosts: tuple[str, ...]
    listen: str
    about: tuple[str, ...]
    backends: tuple[Backend, ...]
    level: Level
    condition: str

    @property
    def anchor(self) -> str:
        """Where it is on the page."""
        return f"service-{self.number}"


class Problem(NamedTuple):
    """Something to look at, the worst first."""

    level: Level
    subject: str
    says: str
    hosts: tuple[str, ...]
    since: str = ""
    why: str = ""
    services: tuple[Service, ...] = ()
    history: tuple[Change, ...] = ()
    remedy: str = ""


class Event(NamedTuple):
    """A change of the health of a backend, of the services that ask for it alike."""

    change: Change
    name: str
    address: str
    services: tuple[Service, ...]


class View(NamedTuple):
    """All of it."""

    hosts: Mapping[str, Any]
    groups: tuple[fleet.Group, ...]
    services: tuple[Service, ...]
    problems: tuple[Problem, ...]
    differences: tuple[Problem, ...]
    #: With the hosts of each.
    warnings: Mapping[str, tuple[str, ...]]


def view(hosts: Mapping[str, Any]) -> View:
    """Of {host: what the module `balancer_info` returned}."""
    groups = tuple(fleet.groups(hosts))
    services: list[Service] = []
    for group in groups:
        count = len(group.infos[0]["services"]) if group.read else 0
        services += [_service(len(services) + at, group, at) for at in range(count)]
    warnings = fleet.remarks_of(
        {str(host): info.get("remarks") or [] for host, info in hosts.items() if fleet.readable(info)}
    )
    problems = sorted(_together([*_of_services(services), *_of_hosts(groups)]), key=_urgency)
    return View(hosts, groups, tuple(services), tuple(problems), tuple(_differences(groups, services)), warnings)


def ago(since: str, now: datetime) -> str:
    """How long before the report that was; empty where it is not known."""
    began = moment(since)
    return "" if began is None else duration(max(0.0, (now - began).total_seconds()))


# -- services ----------------------------------------------------------------------------------------------------------


def _service(number: int, group: fleet.Group, at: int) -> Service:
    found = group.infos[0]["services"][at]
    totals = _totals(group, at)
    steady = _is_steady(group, at)
    backends = tuple(
        _backend(group, standing, totals, steady) for ways in fleet.standings(group, at) for standing in ways
    )
    level, condition = _condition(backends)
    listen = ", ".join(str(item) for item in found["listen"])
    return Service(number, str(found["name"]), group.hosts, listen, tuple(_about(found)), backends, level, condition)


def _about(service: Mapping[str, Any]) -> Iterator[str]:
    yield "/".join(service.get("protocol") or [])
    yield str(service["method"])
    if service.get("redispatch"):
        yield "redispatch"
    if service.get("affinity"):
        yield f"affinity {duration(float(service['affinity']))}"
    if service.get("pins"):
        yield f"{service['pins']} pins"
    if service.get("interface"):
        yield f"only by {service['interface']}"
    if service.get("restricted"):
        yield "only for some networks"


def _totals(group: fleet.Group, at: int) -> dict[tuple[str, bool], int]:
    """New connections of a service by balancer and family (whether it is IPv6)."""
    totals: dict[tuple[str, bool], int] = {}
    for host, info in zip(group.hosts, group.infos, strict=True):
        for backend in info["services"][at]["backends"]:
            key = host, ":" in str(backend["address"])
            totals[key] = totals.get(key, 0) + int(backend.get("new_connections") or 0)
    return totals


def _is_steady(group: fleet.Group, at: int) -> bool:
    """Whether the shares of a service have been those of now as far as is known, and follow from its method alone."""
    services = [info["services"][at] for info in group.infos]
    return all(
        service["method"] in _DEALT
        and not service.get("affinity")
        and not service.get("pins")
        and not any(item.get("why") or item.get("override") or changes(item) for item in service["backends"])
        for service in services
    )


def is_far(count: int, of: int, share: float) -> bool:
    """Whether a backend with this share got another part of so many connections than chance explains. The same test
    as of the alert NatlbShareFarFromExpected (docs/monitoring.md)."""
    mean = of * share
    if of < _LEAST_CONNECTIONS or mean < _LEAST_EXPECTED:
        return False
    return abs(count - mean) > max(_DEVIATIONS * math.sqrt(mean * (1 - share)), _LEAST_DIFFERENCE * mean)


def _backend(
    group: fleet.Group, standing: fleet.Standing, totals: Mapping[tuple[str, bool], int], steady: bool
) -> Backend:
    found = standing.backend
    new = found.get("new_connections")
    total = sum(totals[host, ":" in str(found["address"])] for host in standing.hosts)
    level: Level = "bad" if found.get("health") == "down" else "odd" if found.get("why") else ""
    if not level and found["state"] != "active":
        level = "odd"
    return Backend(
        standing.hosts,
        standing.hosts != group.hosts,
        str(found["name"]),
        endpoint(str(found["address"]), found.get("port")),
        int(found["weight"]),
        tuple(_words(found)),
        level,
        _since(found),
        _reason(found),
        found.get("expected_share"),
        new / total if total and new is not None else None,
        steady and new is not None and is_far(new, total, float(found.get("expected_share") or 0)),
        new,
        found.get("active_connections"),
        changes(found),
    )


def _words(backend: Mapping[str, Any]) -> Iterator[str]:
    health, state = backend.get("health"), str(backend["state"])
    if state != "active":
        yield state
    if health not in (None, "none", "unchecked"):
        yield str(health)
    elif state == "active":
        yield "not checked"
    if backend.get("backup"):
        yield "backup"
    if backend.get("because") == "fail_open":
        yield "in rotation nevertheless"
    if backend.get("because") == "min_healthy":
        yield "waits for others (min_healthy)"


def _since(backend: Mapping[str, Any]) -> str:
    """Since when it stands as it does, if that is anything to know."""
    override = backend.get("override") or {}
    if backend.get("health") == "down" or not override:
        return str(backend.get("health_since") or "")
    return str(override.get("since") or "")


def _reason(backend: Mapping[str, Any]) -> str:
    """The reason in words, without the time that stands beside it."""
    override = backend.get("override") or {}
    own = str(override.get("reason") or "")
    if backend.get("health") == "down":
        parts = [str(backend.get("health_reason") or ""), f"override: {own or _said(override)}" if override else ""]
        return "; ".join(part for part in parts if part) or "no reason is known"
    if override:
        return own or "no reason was given"
    return re.sub(r"^(\w+ )?since \S+: ", "", str(backend.get("why") or ""))


def _said(override: Mapping[str, Any]) -> str:
    weight = override.get("weight")
    return str(override.get("state") or "") if weight is None else f"weight {weight}"


def _condition(backends: Sequence[Backend]) -> tuple[Level, str]:
    """How a service is, in words."""
    if not any(backend.expected for backend in backends):
        return "bad", NONE
    worst = min((backend.level for backend in backends), key=lambda level: _RANK[level], default="")
    if not worst:
        return "", "all backends serve"
    names = list(dict.fromkeys(f"{backend.name} {' '.join(backend.words)}" for backend in backends if backend.level))
    more = f" and {len(names) - _MOST_WORDS} more" if len(names) > _MOST_WORDS else ""
    return worst, ", ".join(names[:_MOST_WORDS]) + more


def happened(services: Sequence[Service], start: datetime) -> list[Event]:
    """What was found from `start` on, the last first. A backend of many services is asked once for all of them."""
    found: dict[tuple[Change, str, str], list[Service]] = {}
    for service in services:
        for backend in service.backends:
            for change in backend.history:
                began = moment(change.since)
                if began is not None and began >= start:
                    found.setdefault((change, backend.name, backend.address), []).append(service)
    events = [Event(*key, tuple(dict.fromkeys(of))) for key, of in found.items()]
    return sorted(events, key=lambda event: event.change.since, reverse=True)


# -- what is wrong -----------------------------------------------------------------------------------------------------


def _urgency(problem: Problem) -> tuple[int, bool]:
    """What no client gets through stands first."""
    return _RANK[problem.level], problem.says != _NOBODY


def _together(problems: Sequence[Problem]) -> list[Problem]:
    """What is the same of several services once: a dead host is a backend of many. The earliest time stands."""
    found: dict[Any, list[Problem]] = {}
    for item in problems:
        # A service without backends is nobody else's problem.
        key = item._replace(since="", history=(), services=item.services if item.says == _NOBODY else ())
        found.setdefault(key, []).append(item)
    return [
        alike[0]._replace(
            since=min((item.since for item in alike if item.since), default=""),
            services=tuple(service for item in alike for service in item.services),
        )
        for alike in found.values()
    ]


def _of_services(services: Sequence[Service]) -> Iterator[Problem]:
    for service in services:
        if service.condition == NONE:
            since = max((backend.since for backend in service.backends if backend.level == "bad"), default="")
            yield Problem("bad", service.name, _NOBODY, service.hosts, since, "", (service,))
        for backend in service.backends:
            if backend.level:
                taken = any(word in ("drained", "disabled") for word in backend.words)
                says = f"is {', '.join(word for word in backend.words if word != 'up' or not taken)}"
                if backend.level == "odd" and backend.words == ("up",):
                    says = "is not as declared"
                yield Problem(
                    *(backend.level, backend.name, says, backend.hosts, backend.since, backend.why),
                    *((service,), backend.history, f"natlb restore {backend.name} brings it back" if taken else ""),
                )


def _of_hosts(groups: Sequence[fleet.Group]) -> Iterator[Problem]:
    for group in groups:
        for host, info in zip(group.hosts, group.infos, strict=True):
            if not fleet.readable(info):
                yield Problem(
                    "bad", host, "could not be read: what it does is not known", (host,), "", table.reason(info)
                )
                continue
            if info.get("forwarding") is False:
                remedy = "run natlb.netfilter.deploy"
                yield Problem("bad", host, "does not forward packets: no client gets through", (host,), "", remedy)
            if info.get("drift"):
                remedy = "somebody has changed its rules, files or settings; run natlb.netfilter.deploy"
                yield Problem("odd", host, "differs from its last declaration", (host,), "", remedy)


# -- what differs ------------------------------------------------------------------------------------------------------


def _differences(groups: Sequence[fleet.Group], services: Sequence[Service]) -> Iterator[Problem]:
    for group in groups:
        if group.read and len(group.hosts) > 1:
            ways = fleet.remarks_of({h: [str(i.get("engine"))] for h, i in zip(group.hosts, group.infos, strict=True)})
            for engine, hosts in ways.items() if len(ways) > 1 else ():
                yield Problem("odd", "engine", f"is {engine}", hosts)
    for service in services:
        for backend in service.backends:
            if backend.some:
                words = [
                    *backend.words,
                    f"weight {backend.weight}",
                    f"expected share {table.percent(backend.expected)}",
                ]
                yield Problem(backend.level, backend.name, ", ".join(words), backend.hosts, "", "", (service,))
    of: dict[str, list[Service]] = {}
    for service in services:
        of.setdefault(service.name, []).append(service)
    for name, alike in of.items():
        for service in alike if len(alike) > 1 else ():
            many = "" if len(service.backends) == 1 else "s"
            says = f"of {len(service.backends)} backend{many} at {service.listen}, {service.about[1]}"
            yield Problem("odd", name, says, service.hosts, "", "", (service,))
