# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backend that is taken out for some time: whether that may be, and when its connections are gone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import HostError
from ..host.store import DEFAULT_PATHS, Paths
from ..model.effective import effective
from ..model.entities import Service
from . import backend_connections, orders, overlay
from .orders import Target
from .request import Request

#: How often it is asked how many connections are left. The kernel picks them out, so that costs next to nothing.
PAUSE_S = 0.5


class Drained(NamedTuple):
    """`active` connections are left after `waited_s` seconds; `closed` were ended at the deadline."""

    active: int
    waited_s: float
    closed: int


def backend(
    *,
    backend: str,
    service: str | None,
    state: str | None,
    weight: int | None,
    reason: str,
    wait: bool,
    wait_timeout: int,
    close_connections: bool,
    min_active: int,
    check: bool,
    paths: Paths = DEFAULT_PATHS,
    variant: str | None = None,
) -> dict[str, Any]:
    """What the module `backend` does and returns. Raises `HostError` and `ConfigError`."""
    if os.geteuid() != 0:
        raise HostError("only root may read or change the rules of this host (become: true)")
    order = orders.combined(state, weight, reason)
    change = orders.look(paths, backend, service, order, variant)
    told: dict[str, Any] = {
        "changed": change.before != change.after,
        "diff": {"prepared": change.diff},
        "services": [target.service.name for target in change.targets],
        "active_connections": None,
        "waited": 0.0,
        "closed": 0,
    }
    leaves = state in ("drained", "disabled") or weight == 0
    if leaves and told["changed"]:
        must_leave(change.request, change.targets, min_active)
    if check:
        return told
    if told["changed"]:
        told["diff"]["prepared"] += orders.give(paths, backend, service, order, variant)[1].diff
    done = await_end(change.targets, wait_timeout if wait and leaves else 0, close_connections and wait)
    return {**told, "active_connections": done.active, "waited": done.waited_s, "closed": done.closed}


def must_leave(request: Request, targets: Sequence[Target], least: int) -> None:
    """Raise `HostError` where fewer than `least` backends of a service would be left to serve without these."""
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
                    f"(bring another one back first)"
                )
    if problems:
        raise HostError("\n".join(problems))


def _left(service: Service, family: str, going: set[tuple[str, int | None]]) -> int:
    staying = tuple(item for item in service.backends if (item.address, item.port) not in going)
    return len(replace(service, backends=staying).serving(family))


def await_end(targets: Sequence[Target], timeout_s: float, close: bool) -> Drained:
    """Wait until the connections to these backends are gone, or for so many seconds. `close` ends what is left then."""
    began = time.monotonic()
    while True:
        left = active(targets)
        waited = time.monotonic() - began
        if not left or waited >= timeout_s:
            break
        time.sleep(min(PAUSE_S, timeout_s - waited))
    closed = 0
    if left and close:
        for address, services in _by_address(targets).items():
            closed += backend_connections.end_all(services, address)
        left = active(targets)
    return Drained(left, round(time.monotonic() - began, 1), closed)


def active(targets: Sequence[Target]) -> int:
    """How many connections these backends have, counted in connection tracking. Raises `HostError`."""
    return sum(backend_connections.active(services, address) for address, services in _by_address(targets).items())


def _by_address(targets: Sequence[Target]) -> dict[str, list[Service]]:
    found: dict[str, list[Service]] = {}
    for target in targets:
        only = replace(target.service, backends=(target.backend,))
        found.setdefault(target.backend.address, []).append(only)
    return found
