# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has happened between two looks at the files of a host: overrides, health, declaration. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..model.effective import Finding, Findings, Override, Overrides, Place
from ..model.entities import Config, Service
from ..model.quorum_memory import crossed, is_whole
from .columns import listed


class News(NamedTuple):
    """Something that has happened: its kind, a line for people, and what it is about, for programs."""

    kind: str
    message: str
    fields: Mapping[str, Any] = {}


Names = Mapping[Place, str]


def names_of(config: Config) -> Names:
    """The name of each backend of each service."""
    return {
        Place(service.name, backend.address, backend.port): backend.name
        for service in config.services
        for backend in service.backends
    }


def of_overrides(before: Overrides, after: Overrides, names: Names) -> Iterator[News]:
    """What operators have said."""
    for place in dict.fromkeys([*before, *after]):
        then, now = before.get(place, Override()), after.get(place, Override())
        if (then.state, then.weight, then.reason) == (now.state, now.weight, now.reason):
            continue
        words = [now.state or "", "" if now.weight is None else f"weight {now.weight}"]
        said = "as declared again" if now.idle else ", ".join(filter(None, words))
        reason = f" ({now.reason})" if now.reason else ""
        fields = {"state": now.state, "weight": now.weight, "reason": now.reason}
        yield News("override", f"{_name(place, names)}: {said}{reason}", {**_about(place, names), **fields})


def of_findings(before: Findings, after: Findings, names: Names, services: Iterable[Service]) -> Iterator[News]:
    """What health checks have found; `services` are those that there are now."""
    for place, now in after.items():
        then = before.get(place)
        if then is None or then.state != now.state:
            yield News("health", _found(place, now, names), {**_about(place, names), "state": now.state})
    for item in crossed(before, after, services):
        if not item.is_below:
            yield News("health", item.words, {"service": item.service})


def _found(place: Place, finding: Finding, names: Names) -> str:
    reason = f": {finding.reason}" if finding.reason else ""
    if is_whole(place):
        return f"{place.service} is below min_healthy{reason}"
    return f"{_name(place, names)} is {finding.state}{reason}"


def of_declarations(before: Config, after: Config) -> Iterator[News]:
    """What a run has declared otherwise."""
    then, now = ({service.name: service for service in config.services} for config in (before, after))
    words = {
        "added": [name for name in now if name not in then],
        "removed": [name for name in then if name not in now],
        "changed": [name for name in now if name in then and now[name] != then[name]],
    }
    told = "; ".join(f"{verb}: {listed(names)}" for verb, names in words.items() if names)
    if told or before.egress != after.egress:
        yield News("declaration", f"a run has declared otherwise: {told or 'egress'}", words)


def of_agent(event: Mapping[str, Any]) -> News:
    """What the agent tells: of a backend, of rules, or of itself."""
    message, service = str(event.get("message", "")), event.get("NATLB_SERVICE")
    if service is None:
        return News("rules" if "rules" in message else "agent", message)
    fields = {"service": service, "backend": event.get("NATLB_BACKEND"), "state": event.get("NATLB_STATE")}
    return News("health", message, {key: value for key, value in fields.items() if value is not None})


def _name(place: Place, names: Names) -> str:
    return f"{names[place]} of {place.service}" if place in names else str(place)


def _about(place: Place, names: Names) -> dict[str, Any]:
    return {"service": place.service, "backend": names.get(place, place.address), "address": place.address}
