# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which services can serve: what `natlb ready` is to know of the declaration, overrides and health.

Of ten thousand services hardly any differs from its declaration. So those that cannot serve as declared are found once,
and only those that differ are looked at again.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from ..host import store
from ..host.store import Paths
from ..model.choices import Variant
from ..model.effective import Findings, Overrides, deviations
from ..model.engine import Engine
from ..model.entities import Service
from ..packets import Family, family_name
from ..plan import agent_files, engines, forwarding, overlay, waiting
from ..plan import request as requests
from ..plan.request import Request
from ..plan.running import Running
from . import readiness
from .readiness import Facts

#: More names are not told.
_MOST = 20


class Declared:
    """The services of a request, as they are declared."""

    def __init__(self, request: Request) -> None:
        self.request = request

    @cached_property
    def _lacking(self) -> dict[str, list[Family]]:
        """Families without a backend that can serve, by service."""
        return {service.name: lacking for service in self.request.config.services if (lacking := _lacks(service))}

    @cached_property
    def _counted(self) -> int:
        return sum(bool(service.backends) for service in self.request.config.services)

    def facts(self, engine: Engine, overrides: Overrides, findings: Findings) -> Facts:
        """With overrides and health laid over it."""
        config = self.request.config
        lacking = dict(self._lacking)
        idle = set(self._idle)
        for service, found in deviations(config, overrides, findings):
            now = replace(service, backends=tuple(item.effective for item in found))
            lacking[service.name] = _lacks(now)
            (idle.add if _is_idle(now) else idle.discard)(service.name)
        unserved = [
            name if name in idle else f"{name} ({' and '.join(map(family_name, families))})"
            for name, families in lacking.items()
            if families
        ]
        return Facts(
            held_by=readiness.holder(engine.shares_tables, engine.is_numbered),
            families=list(config.families()),
            settings=forwarding.switches(config) if self.request.forwarding else {},
            agent=agent_files.runs(self.request) and self.request.persist,
            services=self._counted,
            idle=len(idle),
            unserved=unserved[:_MOST],
        )

    @cached_property
    def _idle(self) -> list[str]:
        return [service.name for service in self.request.config.services if _is_idle(service)]


def _families(service: Service) -> list[Family]:
    """Those of which it declares backends."""
    return sorted({backend.family for backend in service.backends})


def _lacks(service: Service) -> list[Family]:
    return [family for family in _families(service) if not service.serving(family)]


def _is_idle(service: Service) -> bool:
    families = _families(service)
    return bool(families) and _lacks(service) == families


class OfRunning:
    """The same of a balancer in memory, for its agent, which is asked again and again."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._declared: Declared | None = None
        self._version = -1
        self._facts: dict[str, Any] | None = None

    def facts(self) -> dict[str, Any] | None:
        """As JSON takes them. None before it has read the host, and where nothing is declared."""
        plan, version = self._running.plan, self._running.version
        if plan is None or plan.request.config.empty:
            return None
        if version != self._version:
            if self._declared is None or self._declared.request is not plan.request:
                self._declared = Declared(plan.request)
            found = self._declared.facts(plan.engine, plan.laid.overrides, self._running.findings)
            self._facts, self._version = found._asdict(), version
        return self._facts


def of_files(paths: Paths, variant: Variant | None = None) -> Facts | None:
    """What files say, kept for the next time; None where nothing is declared."""
    live, seen = waiting.live(paths), readiness.stamps(paths)
    if store.state_path(live) is None:
        return None
    request = requests.restored(live, variant)[0]
    engine, _warnings = engines.choose_to_read(request.held_by, variant)
    laid = overlay.read(request)
    facts = Declared(request).facts(engine, laid.overrides, laid.findings)
    readiness.keep(paths, seen, facts)
    return facts
