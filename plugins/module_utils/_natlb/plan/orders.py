# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator says of a backend on the host: drained, disabled, another weight, or as declared again.

It is kept beside the declaration (`model/local_state.py`), and the host is made to follow in the same step.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Callable, NamedTuple

from ..errors import HostError
from ..host import store
from ..host.store import Paths
from ..model import local_state
from ..model.effective import Override, Place
from ..model.entities import Backend, Config, Service
from . import overlay
from . import request as requests
from .outcome import Outcome
from .running import Running

#: How many names a message lists.
_NAMED = 8


class Target(NamedTuple):
    """A backend of a service."""

    service: Service
    backend: Backend

    @property
    def place(self) -> Place:
        return Place(self.service.name, self.backend.address, self.backend.port)


def targets(config: Config, backend: str, service: str | None = None) -> list[Target]:
    """The backends of this name, or at this `address` or `address:port`: of one service, or of all.

    Raises `HostError` where there is none.
    """
    services = [item for item in config.services if service in (None, item.name)]
    if not services:
        known = _listed(item.name for item in config.services)
        raise HostError(f"service {service}: not declared on this host (declared: {known})")
    found = [Target(item, one) for item in services for one in item.backends if backend in _names(one)]
    if not found:
        where = f"service {service}" if service else "every service"
        known = _listed(one.name for item in services for one in item.backends)
        raise HostError(f"backend {backend}: {where} has none of this name or address (there are: {known})")
    return found


def _names(backend: Backend) -> set[str]:
    address = f"[{backend.address}]" if backend.family == "ip6" else backend.address
    return {backend.name, backend.address, *([f"{address}:{backend.port}"] if backend.port else [])}


def _listed(names: Iterable[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more or "none"


def drained(reason: str) -> Callable[[Override], Override | None]:
    """No new connections; existing ones go on."""
    return lambda former: replace(former, state="drained", since=_now(), reason=reason)


def disabled(reason: str) -> Callable[[Override], Override | None]:
    """No connections at all of protocols that can be told to end."""
    return lambda former: replace(former, state="disabled", since=_now(), reason=reason)


def weighted(weight: int, reason: str) -> Callable[[Override], Override | None]:
    """Another share of the new connections."""
    return lambda former: replace(former, weight=weight, since=_now(), reason=reason)


def as_declared(_former: Override) -> Override | None:
    """Nothing is said of it any more."""
    return None


def give(
    paths: Paths,
    backend: str,
    service: str | None,
    order: Callable[[Override], Override | None],
    variant: str | None = None,
) -> tuple[Outcome, list[Target]]:
    """Say this of a backend of one service or of all, and let the host follow. Raises `HostError`."""
    with store.lock(paths):
        request, _unread = requests.restored(paths, variant)
        found = targets(request.config, backend, service)
        home = paths.etc if request.persist else paths.run
        host = overlay.identity()
        kept = dict(local_state.parse_overrides(store.read_text(home / store.OVERRIDES), host).entries)
        before = dict(kept)
        for place in (target.place for target in found):
            said = order(kept.get(place, Override()))
            if said is None:
                kept.pop(place, None)
            elif not _same(said, kept.get(place)):
                kept[place] = said
        if kept != before:
            _write(home, kept, host)
    return Running(paths, variant).restore(), found


def _same(one: Override, other: Override | None) -> bool:
    return other is not None and (one.state, one.weight) == (other.state, other.weight)


def _write(home: Path, kept: Mapping[Place, Override], host: str) -> None:
    path = home / store.OVERRIDES
    if kept:
        store.write_text(path, local_state.dump_overrides(kept, host))
    else:
        store.remove(path)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
