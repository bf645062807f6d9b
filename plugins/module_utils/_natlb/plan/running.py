# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A balancer in memory, for a process that stays: what its health checks find is in the kernel within milliseconds.

A change of health is first written down, then made. As long as the rules are those of this process's last commit and
the declaration is the one that it knows, the change is the few lines of the services concerned. In every other case the
host is read and made right as a whole, as by a run. Files for the next boot are left to `restore` as well, so it is to
be called some time after changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from ..errors import HostError
from ..host import processes, revision, store
from ..host.revision import Revision
from ..host.store import Paths
from ..model import local_state
from ..model.effective import Finding, Findings, Place, effective
from ..model.entities import EMPTY, Config, Service
from . import apply, dead_backends, overlay, rollback, unchanged
from . import request as requests
from .apply import Plan
from .known_services import KnownServices, Step
from .outcome import Outcome
from .uncollected import uncollected

#: Inode, size and time of a file: whether it is another one.
_Stamp = tuple[int, int, int]


class Running:
    """What is declared on this host, what was found of its backends, and the rules that are live."""

    def __init__(self, paths: Paths = store.DEFAULT_PATHS, variant: str | None = None) -> None:
        self._paths = paths
        self._variant = variant
        self._findings: dict[Place, Finding] = {}
        self._plan: Plan | None = None
        self._known: KnownServices | None = None
        self._declared: dict[str, Service] = {}
        self._revision: Revision | None = None
        self._stamp: _Stamp | None = None

    @property
    def config(self) -> Config:
        """What is declared."""
        return self._plan.request.config if self._plan else EMPTY

    @property
    def findings(self) -> Findings:
        return self._findings

    def is_current(self) -> bool:
        """Whether the rules and the declaration are those that are known here."""
        return (
            self._revision is not None and self._revision == revision.current() and self._stamp == _stamp(self._paths)
        )

    @uncollected()
    def restore(self) -> Outcome:
        """Make the host be what the last run declared, with overrides and health. Raises `HostError`.

        A change that waits for its confirmation is waited for.
        """
        self._revision = None
        request, _warnings = requests.restored(self._paths, self._variant)
        with rollback.lock_with_nothing_pending(self._paths):
            plan, outcome = apply.carry_out(request, "present", "")
            self._stamp = _stamp(self._paths)
        self._plan = plan
        self._findings = dict(plan.laid.findings)
        self._declared = {service.name: service for service in plan.request.config.services}
        self._known = KnownServices(plan.engine, plan.laid.config, plan.around, plan.rendered)
        # Rules of iptables-legacy may change unseen.
        self._revision = unchanged.last_revision(self._paths) if plan.engine.is_numbered else None
        return outcome

    @uncollected()
    def find(self, findings: Findings) -> bool:
        """Take note of what health checks found of some backends, and let the rules follow. Raises `HostError`.

        Returns whether the whole host was read for it.
        """
        changed = {place: item for place, item in findings.items() if self._findings.get(place) != item}
        concerned = {place.service for place in changed}
        self._findings.update(findings)
        text = local_state.dump_findings(self._findings, overlay.identity())
        store.write_text(self._paths.run / store.HEALTH, text)
        with store.lock(self._paths):
            waits = rollback.pending(self._paths)
            done = not waits and self.is_current() and self._followed(name for name in concerned if name)
        if not done:
            self.restore()
        self._end_attempts(place for place, finding in changed.items() if finding.state == "down")
        return not done

    def _end_attempts(self, places: Iterable[Place]) -> None:
        """So that the next packet of a client that still tries takes another backend."""
        dead: dict[str, list[Service]] = {}
        for place in places:
            service = self._declared.get(place.service or "")
            if service is not None and (service.redispatch or "udp" in service.protocols):
                dead.setdefault(place.address, []).append(service)
        for address, services in dead.items():
            dead_backends.end_attempts(services, address)

    def _followed(self, names: Iterable[str]) -> bool:
        """Whether the rules of these services could be changed by themselves. To be called with the lock held."""
        step = self._step([self._declared[name] for name in names if name in self._declared])
        if step is None or self._plan is None or self._revision is None or self._known is None:
            return False
        engine, expected = self._plan.engine, self._revision.after(self._plan.engine.commits(step.transaction))
        self._revision = None
        try:
            processes.run_commands(engine.commands(step.transaction))
        except HostError:
            return False
        self._known.made(step)
        if revision.current() != expected:
            # Somebody else has changed rules meanwhile.
            return False
        self._revision = expected
        return True

    def _step(self, declared: list[Service]) -> Step | None:
        if self._plan is None or self._known is None:
            return None
        some = replace(self.config, services=tuple(declared))
        return self._known.step(effective(some, self._plan.laid.overrides, self._findings).services)


def _stamp(paths: Paths) -> _Stamp | None:
    """What tells the kept request from another one."""
    path = store.state_path(paths)
    if path is None:
        return None
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
