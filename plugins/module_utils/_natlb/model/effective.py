# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The effective configuration: the declaration, overrides of operators, and findings of health checks.

Only this file decides which of them applies. An override replaces the declared state or weight. Health takes a backend
out, and never puts one back. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from ..packets import Family, family_name
from .entities import STATES, Backend, Config, Service, State
from .slots import fits
from .values import endpoint

#: What a check may find: that the backend serves, that it asks for no new connections, or that it is dead.
Found = Literal["up", "drain", "down"]
FOUND: tuple[Found, ...] = ("up", "drain", "down")
_STATE_OF: dict[Found, State] = {"up": "active", "drain": "drained", "down": "disabled"}

Because = Literal["declared", "override", "health", "fail_open", "min_healthy"]
#: The address of the place that stands for all backends of a family: a backend cannot have it.
WHOLES = {"ip": "0.0.0.0", "ip6": "::"}


class Place(NamedTuple):
    """A backend within a service. Without a service it is a backend of every service, and without a port also at any
    port.

    In a named service, no port means the backend that is declared without one.
    """

    service: str | None
    address: str
    port: int | None

    def __str__(self) -> str:
        at = endpoint(self.address, self.port)
        return f"{at} of {self.service}" if self.service else f"{at} of every service"


@dataclass(frozen=True)
class Override:
    """The override of an operator for a backend. None and `active` both mean: as declared."""

    state: State | None = None
    weight: int | None = None
    since: str = ""
    reason: str = ""
    #: What it is joined from where there are several reasons; see `joined`.
    parts: tuple[Override, ...] = ()

    @property
    def by_reason(self) -> tuple[Override, ...]:
        """What was said for each reason, oldest first."""
        return self.parts or (() if self == Override() else (self,))

    @property
    def idle(self) -> bool:
        """Whether it changes nothing. It can then only exempt a backend from a more general override."""
        return self.state in (None, "active") and self.weight is None


def joined(parts: Sequence[Override]) -> Override:
    """The override that follows from what was said for several reasons, oldest first; each of them has only one.

    The state and the weight that were said last hold. So the backend stays out until each reason is taken back.
    """
    if len(parts) < 2:
        return parts[0] if parts else Override()
    states = [part.state for part in parts if part.state is not None]
    weights = [part.weight for part in parts if part.weight is not None]
    reason = "; ".join(part.reason for part in parts if part.reason)
    last = states[-1] if states else None, weights[-1] if weights else None
    return Override(*last, parts[-1].since, reason, tuple(parts))


@dataclass(frozen=True)
class Finding:
    """The result of health checks for a backend."""

    state: Found
    since: str = ""
    reason: str = ""
    #: The part of its weight that it is to get.
    share: float = 1.0

    @property
    def is_well(self) -> bool:
        """Whether it changes nothing."""
        return self.state == "up" and self.share == 1


Overrides = Mapping[Place, Override]
Findings = Mapping[Place, Finding]


@dataclass(frozen=True)
class EffectiveBackend:
    """The effective state of a backend, and the reason. `intended` is the backend after declaration and override."""

    declared: Backend
    override: Override | None
    finding: Finding | None
    intended: Backend
    effective: Backend
    because: Because
    #: The weight of the override is left out: the service would need more slots than there are.
    unweighted: bool = False
    #: Why the service leaves it out, where it does so for want of others.
    below: str = ""

    def why(self) -> str:
        """The reason in words; empty where the declaration alone decides."""
        if self.because == "min_healthy":
            return self.below
        if self.because == "fail_open":
            return "all are down, and fail_open keeps them"
        if self.because == "health" and self.finding is not None:
            part = f"gets {100 * self.finding.share:.0f} % of its weight"
            said = {"down": "down", "drain": "asks for no new connections", "up": part}[self.finding.state]
            return _told(said, self.finding.since, self.finding.reason)
        if self.because == "override" and self.override is not None:
            return _told("override", self.override.since, self.override.reason)
        return ""


def effective(declared: Config, overrides: Overrides, findings: Findings) -> Config:
    """The configuration that the rules are made from."""
    if _is_as_declared(declared, overrides, findings):
        return declared
    concerned = _Concerned(overrides, findings)
    services = [
        replace(service, backends=tuple(item.effective for item in effective_backends(service, overrides, findings)))
        if concerned.has(service)
        else service
        for service in declared.services
    ]
    return replace(declared, services=tuple(services))


def deviations(
    declared: Config, overrides: Overrides, findings: Findings
) -> Iterator[tuple[Service, list[EffectiveBackend]]]:
    """The services with a backend that differs from its declaration, or that `fail_open` keeps, or below its quorum."""
    if _is_as_declared(declared, overrides, findings):
        return
    concerned = _Concerned(overrides, findings)
    for service in filter(concerned.has, declared.services):
        found = effective_backends(service, overrides, findings)
        if any(item.because != "declared" or item.unweighted for item in found) or is_below(service, found, findings):
            yield service, found


def _is_as_declared(declared: Config, overrides: Overrides, findings: Findings) -> bool:
    return not overrides and not findings and not any(service.quorum for service in declared.services)


def effective_backends(service: Service, overrides: Overrides, findings: Findings) -> list[EffectiveBackend]:
    """Each backend of a service, in the order of the declaration."""
    if not overrides and not findings and not service.quorum:
        return [EffectiveBackend(item, None, None, item, item, "declared") for item in service.backends]
    found = [
        _effective_backend(
            backend,
            next((overrides[place] for place in places(service, backend) if place in overrides), None),
            findings.get(Place(service.name, backend.address, backend.port)) if service.health else None,
        )
        for backend in service.backends
    ]
    found = _without_shares(service, _within_slots(service, found))
    if service.health is not None and service.health.fail_open:
        for family in service.families():
            found = _failed_open(found, family)
    for count in quorums(service, found, findings):
        if count.is_below:
            found = _held_back(service, found, count)
    return found


class Count(NamedTuple):
    """How many backends of a family are healthy, and how many its service wants for now (`quorum.py`)."""

    place: Place
    family: Family
    #: Its name and a space, where the service has backends of both.
    title: str
    healthy: int
    needed: int
    declared: int
    #: Since when it is below; None where it is not, and empty where that is not known.
    since: str | None

    @property
    def is_below(self) -> bool:
        return self.healthy < self.needed

    def __str__(self) -> str:
        back = f"back at {self.needed}" if self.is_below else f"min_healthy {self.needed}"
        return f"{self.healthy} of {self.declared} {self.title}backends healthy, {back}"


def whole(service: str, family: Family) -> Place:
    """The place of all backends of a family. A service that has fallen below its quorum has a finding for it, which is
    its memory: it comes back only at `min_healthy_again`."""
    return Place(service, WHOLES[family], None)


def quorums(service: Service, found: Sequence[EffectiveBackend], findings: Findings) -> list[Count]:
    """How the service stands in each family that has backends. Empty without a quorum.

    Those count that are healthy and in rotation. A drain therefore counts like a failure.
    """
    if service.quorum is None:
        return []
    counts = []
    counted = {family: count for family in service.families() if (count := len(service.counted(family)))}
    for family, declared in counted.items():
        title = f"{family_name(family)} " if len(counted) > 1 else ""
        place = whole(service.name, family)
        memory = findings.get(place)
        own = [item for item in found if item.declared.family == family and item.declared.weight > 0]
        healthy = sum(map(_counts, own))
        needed = service.quorum.needed(declared, memory is not None)
        since = (memory.since if memory else "") if healthy < needed else None
        # What it comes back at is told also by whoever looks before that is remembered.
        told = service.quorum.needed(declared, was_below=True) if healthy < needed else needed
        counts.append(Count(place, family, title, healthy, told, declared, since))
    return counts


def is_below(service: Service, found: Sequence[EffectiveBackend], findings: Findings) -> bool:
    """Whether the service is below its quorum in some family."""
    return any(count.is_below for count in quorums(service, found, findings))


def _counts(item: EffectiveBackend) -> bool:
    """Whether a backend is healthy, and gets new connections but for a quorum. What `fail_open` keeps is not well."""
    backend = item.effective
    return backend.state == "active" and backend.weight > 0 and not backend.backup and item.because != "fail_open"


def _held_back(service: Service, found: list[EffectiveBackend], count: Count) -> list[EffectiveBackend]:
    """Without the healthy backends of a family, so that its backups serve.

    With `fail_open` nobody is turned away for want of health: without a backup that can serve, they go on.
    """
    fails_open = service.health is not None and service.health.fail_open
    able = replace(service, backends=tuple(item.effective for item in found)).able(count.family)
    if fails_open and not any(backend.backup for backend in able):
        return found
    below = _told("below min_healthy", count.since or "", str(count))
    return [
        replace(item, effective=replace(item.effective, held=True), because="min_healthy", below=below)
        if item.declared.family == count.family and _counts(item)
        else item
        for item in found
    ]


def places(service: Service, backend: Backend) -> Iterator[Place]:
    """The places that identify a backend, from the most specific to the most general."""
    yield Place(service.name, backend.address, backend.port)
    port = backend.port or service.listen_port
    if port is not None:
        yield Place(None, backend.address, port)
    yield Place(None, backend.address, None)


class _Concerned:
    """The services that may differ from their declaration; of ten thousand most do not."""

    def __init__(self, overrides: Overrides, findings: Findings) -> None:
        self._names: set[str | None] = set()
        self._addresses: set[str] = set()
        for place in (*overrides, *(place for place, finding in findings.items() if not finding.is_well)):
            if place.service is None:
                self._addresses.add(place.address)
            else:
                self._names.add(place.service)

    def has(self, service: Service) -> bool:
        return (
            service.quorum is not None
            or service.name in self._names
            or (bool(self._addresses) and any(backend.address in self._addresses for backend in service.backends))
        )


def _effective_backend(declared: Backend, override: Override | None, finding: Finding | None) -> EffectiveBackend:
    intended = declared if override is None else _intended(declared, override)
    found: State = _STATE_OF[finding.state] if finding is not None else "active"
    # Of two that take it out, the one that takes it out further.
    worse = STATES.index(found) > STATES.index(intended.state)
    holds = replace(intended, state=found) if worse else intended
    partly = finding is not None and finding.share < 1 and holds.state == "active"
    if finding is not None and partly:
        holds = replace(holds, share=finding.share)
    because: Because = "health" if worse or partly else "override" if intended != declared else "declared"
    return EffectiveBackend(declared, override, finding, intended, holds, because)


def _intended(declared: Backend, override: Override) -> Backend:
    state = declared.state if override.state is None or override.state == "active" else override.state
    weight = declared.weight if override.weight is None else override.weight
    if weight == 0 and declared.weight:
        # A weight of 0 takes a backend out of the table of a hash, which moves clients of others; a drain does not.
        weight, state = declared.weight, "drained" if state == "active" else state
    return replace(declared, state=state, weight=weight)


def _within_slots(service: Service, found: list[EffectiveBackend]) -> list[EffectiveBackend]:
    """Without the weights of overrides, if the service would need too many slots with them."""
    if all(item.intended.weight == item.declared.weight for item in found) or not fits(service):
        return found
    if fits(replace(service, backends=tuple(item.effective for item in found))):
        return found
    return [
        item
        if item.override is None or item.override.weight is None
        else replace(
            _effective_backend(item.declared, replace(item.override, weight=None), item.finding), unweighted=True
        )
        for item in found
    ]


def _without_shares(service: Service, found: list[EffectiveBackend]) -> list[EffectiveBackend]:
    """With whole weights, where parts of them would need more slots than there are."""
    if all(item.effective.share == 1 for item in found) or fits(
        replace(service, backends=tuple(item.effective for item in found))
    ):
        return found
    return [replace(item, effective=replace(item.effective, share=1.0)) for item in found]


def _failed_open(found: list[EffectiveBackend], family: Family) -> list[EffectiveBackend]:
    """With the intended backends of a family, if all that could serve are down."""
    able = [
        item
        for item in found
        if item.declared.family == family
        and item.intended.state == "active"
        and item.intended.weight
        and not (item.finding is not None and item.finding.state == "drain")
    ]
    kept = {id(item) for item in able if item.effective.state != "active"}
    if not able or len(kept) < len(able):
        return found
    return [replace(item, effective=item.intended, because="fail_open") if id(item) in kept else item for item in found]


def _told(said: str, since: str, reason: str) -> str:
    return said + (f" since {since}" if since else "") + (f": {reason}" if reason else "")
