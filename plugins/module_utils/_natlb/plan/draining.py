# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backend that is taken out for some time: whether that may be, and when its connections are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Callable, NamedTuple

from ..errors import ConfigError, HostError, MinActiveError, UnknownBackendError
from ..host.store import DEFAULT_PATHS, Paths
from ..model import values
from ..model.choices import Variant
from ..model.effective import Override, Place, effective, effective_backends, quorums
from ..model.entities import MAX_BACKENDS, MAX_WAIT_S, Service, State
from ..model.least_connections import place_of
from ..packets import Family
from . import orders, overlay
from .backend_connections import NONE, BackendConnections, Connections
from .orders import Change, Target
from .overlay import Overlay
from .request import Request

#: How often it is asked how many connections are left. The kernel picks them out, so that costs next to nothing.
PAUSE_S = 0.5
#: After so long a client sends its first packet again. An attempt without an answer is then better off elsewhere.
ATTEMPT_S = 1.0

#: Told, while somebody waits, how many connections are left and how many seconds have passed.
Progress = Callable[[int, float], None]


def _unheard(_left: int, _waited_s: float) -> None:
    """Nobody is told."""


class Drained(NamedTuple):
    """`active` connections are left after `waited_s` seconds; `closed` were ended at the deadline."""

    active: int
    waited_s: float
    closed: int


def backend(
    *,
    backend: str,
    service: str | None,
    state: State | None,
    weight: int | None,
    reason: str,
    only_reason: str | None = None,
    wait: bool,
    wait_timeout: int,
    wait_only: bool = False,
    close_connections: bool,
    min_active: int,
    allow_missing: bool,
    check: bool,
    paths: Paths = DEFAULT_PATHS,
    variant: Variant | None = None,
    progress: Progress = _unheard,
) -> dict[str, Any]:
    """What the module `backend` and the program do, and what the module returns.

    `progress` is told how many connections are left and how many seconds have passed. With `wait_only` nothing is
    ordered. Raises `HostError` and `ConfigError`.
    """
    _check(wait_timeout, min_active)
    order = orders.combined(state, weight, reason, only_reason)
    leaves = state in ("drained", "disabled") or weight == 0

    def permit(change: Change) -> None:
        going = [target for target in change.changed if not _is_out(change.before.get(target.place))]
        if leaves and going:
            must_leave(change.request, going, min_active)

    try:
        change = orders.preview(paths, backend, service, order, variant)
    except UnknownBackendError as error:
        if allow_missing:
            return {**_told(None), "missing": str(error)}
        raise
    if wait_only:
        change = _as_it_is(change, wait and leaves)
    permit(change)
    told = _told(change)
    if check:
        return {**told, "active_connections": None}
    if told["changed"]:
        told["diff"]["prepared"] += orders.give(paths, backend, service, order, variant, permit)[1].diff
    done = await_end(_Connections(change), wait_timeout if wait and leaves else 0, close_connections and wait, progress)
    told["changed"] |= done.closed > 0
    return {**told, "active_connections": done.active, "waited": done.waited_s, "closed": done.closed}


def _is_out(said: Override | None) -> bool:
    """Whether a backend gets no new connections by this override."""
    return said is not None and (said.state in ("drained", "disabled") or said.weight == 0)


def _check(wait_timeout: int, min_active: int) -> None:
    if os.geteuid() != 0:
        raise HostError("only root may read or change the rules of this host (become: true)")
    values.integer(wait_timeout, "wait_timeout", 0, MAX_WAIT_S, "a number of seconds")
    values.integer(min_active, "min_active", 0, MAX_BACKENDS, "a number of backends")


def _as_it_is(change: Change, is_awaited: bool) -> Change:
    """Nothing is ordered. Raises `ConfigError` where nothing is waited for either, and `HostError` for a backend that
    somebody has brought back meanwhile."""
    if not is_awaited:
        problem, remedy = "nothing is to be waited for", "add wait, with state drained or disabled"
        raise ConfigError("wait_only", problem, remedy)
    back = [
        f"{target.backend.name} of {target.service.name}"
        for target in change.changed
        if not _is_out(change.before.get(target.place))
    ]
    if back:
        raise HostError(f"{', '.join(back)}: is in rotation again, so its connections do not end (drain it again)")
    return change._replace(after=change.before)


def _told(change: Change | None) -> dict[str, Any]:
    """What is returned where no connections are looked at. Without a change there is no such backend."""
    return {
        "changed": change is not None and not change.is_none,
        "diff": {"prepared": change.diff if change else ""},
        "services": [target.service.name for target in change.targets] if change else [],
        "changed_services": [target.service.name for target in change.changed] if change else [],
        "overrides": change.holding if change else [],
        "active_connections": 0,
        "waited": 0.0,
        "closed": 0,
        "missing": "",
    }


#: One text for all tools, each of which has another name for it.
_ANYHOW = (
    "bring another one back first; to drain it nevertheless say min_active: 0, with the playbook natlb_min_active=0, "
    "with the program --min-active 0"
)


def must_leave(request: Request, targets: Sequence[Target], least: int) -> None:
    """Raise `MinActiveError` where fewer than `least` backends of a service would be left to serve without these.

    Also where the service would fall below its quorum, unless `least` is 0: who asks for a drain does not expect that
    all clients go to the backups.
    """
    laid = overlay.read(request)
    going = {target.place for target in targets}
    problems = []
    for service in effective(request.config, laid.overrides, laid.findings).services:
        mine = [target for target in targets if target.service.name == service.name]
        for family in dict.fromkeys(target.backend.family for target in mine):
            left = _left(service, family, {place[1:] for place in going if place.service == service.name})
            if left < least:
                problems.append(
                    f"service {service.name}: {left} of its backends would serve without "
                    f"{', '.join(target.backend.name for target in mine)}, and min_active is {least} "
                    f"({_ANYHOW})"
                )
    if least:
        problems += _falls(request, laid, going)
    if problems:
        raise MinActiveError("\n".join(problems))


def _falls(request: Request, laid: Overlay, going: Collection[Place]) -> Iterator[str]:
    """The services that would fall below their quorums without these, in words."""
    names = {place.service for place in going}
    for service in request.config.services:
        if service.name not in names or service.quorum is None:
            continue
        standing = effective_backends(service, laid.overrides, laid.findings)
        staying = [item for item in standing if place_of(service, item.declared) not in going]
        for now, then in zip(*(quorums(service, found, laid.findings) for found in (standing, staying))):
            if then.is_below and not now.is_below:
                yield (
                    f"service {service.name}: {then.healthy} of {then.declared} {then.title}backends would be healthy, "
                    f"and min_healthy is {now.needed}, so none of them would serve "
                    f"({_ANYHOW})"
                )


def _left(service: Service, family: Family, going: set[tuple[str, int | None]]) -> int:
    """How many would serve; backups that join then are some of them."""
    after = (replace(b, state="drained") if (b.address, b.port) in going else b for b in service.backends)
    return len(replace(service, backends=tuple(after)).serving(family))


class _Connections:
    """The connections to the backends that an order is for."""

    def __init__(self, change: Change) -> None:
        self._known = BackendConnections(change.request.config.services)
        self._services: dict[str, list[Service]] = {}
        for target in change.targets:
            only = replace(target.service, backends=(target.backend,))
            self._services.setdefault(target.backend.address, []).append(only)

    def left(self) -> Connections:
        """How many there are."""
        found = [self._known.count(own, where) for where, own in self._services.items()]
        return Connections(sum(item.active for item in found), sum(item.opening for item in found))

    def end_attempts(self) -> None:
        """End those that the backend has yet to answer."""
        for address, services in self._services.items():
            self._known.end_attempts(services, address)

    def end_all(self) -> None:
        """End all of them."""
        for address, services in self._services.items():
            self._known.end_all(services, address)


def await_end(connections: _Connections, timeout_s: float, close: bool, progress: Progress = _unheard) -> Drained:
    """Wait until these connections are gone, or for so many seconds. `close` ends what is left then.

    Attempts that the backend has not answered are waited for as well: it may be stopped next, and would refuse them.
    They are few and short, unless it is dead or overloaded. So those that are left after `ATTEMPT_S` are ended, and the
    client's next packet goes to another backend. Raises `HostError`.
    """
    began = time.monotonic()
    while True:
        left = connections.left()
        waited = time.monotonic() - began
        if left == NONE or waited >= timeout_s:
            break
        progress(left.active + left.opening, waited)
        if left.opening and waited >= ATTEMPT_S:
            connections.end_attempts()
        time.sleep(min(PAUSE_S, timeout_s - waited))
    closed = 0
    if timeout_s and left.opening:
        connections.end_attempts()
    if left.active and close:
        # Also entries of connections that have ended already. They are none of those that are reported.
        connections.end_all()
        had, left = left.active, connections.left()
        closed = had - left.active
    return Drained(left.active, round(time.monotonic() - began, 1), closed)
