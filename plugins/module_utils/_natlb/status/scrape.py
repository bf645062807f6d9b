# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the host for its metrics: what is balanced, what it gets, and how the host is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import HostError
from ..host import left, proc, revision, sysctl
from ..host.store import Paths
from ..model import tracking
from ..model.choices import Variant
from ..plan import forwarding, last_run, overlay, reading, totals, unchanged
from ..plan import request as requests
from ..plan.overlay import Overlay
from ..plan.request import Request
from ..plan.running import Running
from ..plan.totals import Key
from ..plan.uncollected import uncollected
from . import metrics
from .activity import Meter
from .metrics import Vitals


class State(NamedTuple):
    """What is declared on this host, and what overrides and health make of it."""

    request: Request
    laid: Overlay

    @classmethod
    def of_files(cls, paths: Paths, variant: Variant | None) -> State:
        request = requests.restored(paths, variant)[0]
        return cls(request, overlay.read(request))


def of_running(
    running: Running, digest: str, checks: Sequence[Mapping[str, Any]], vitals: Vitals, idle: bool = True
) -> str:
    """The metrics of a balancer in memory, by its agent. Raises `HostError`."""
    standing = running.standing()
    if standing is None:
        raise HostError("nothing is known of this host yet")
    return scrape(State(*standing), digest, checks, vitals, idle)


@uncollected()
def scrape(
    state: State, digest: str, checks: Sequence[Mapping[str, Any]], agent: Vitals | None, idle: bool = True
) -> str:
    """The metrics of this host. `checks` are as `health/overview.py` gives them, and `agent` is None where it does not
    answer. Raises `HostError`."""
    request, laid = state
    paths = request.paths
    meter = Meter(request, laid.live)
    # A backend that is out has no slots, and what it got before counts all the same.
    keys = [(service.name, backend.key) for service in request.config.services for backend in service.backends]

    def new() -> dict[Key, int]:
        found = meter.new()
        return {key: found.get(key, 0) for key in keys}

    sums = totals.counted(paths, new)
    active = meter.active()
    last = last_run.read(paths)
    now = revision.current()
    host = metrics.Host(
        digest=digest,
        engine=meter.engine.name,
        forwarding=forwarding.is_on(request.config),
        drift=_drift(request),
        generation=now.generation if now else None,
        tracking={
            "count": sysctl.number("net/netfilter/nf_conntrack_count"),
            "max": sysctl.number("net/netfilter/nf_conntrack_max"),
            **tracking.statistics(proc.conntrack_statistics()),
        },
        applied_at=last and last.at,
        apply_took_s=last and last.took_s,
        apply_succeeded=last and last.succeeded,
        agent=agent,
        now=time.time(),
        left=left.read(paths) is not None,
    )
    standing = laid.overrides, laid.findings, laid.multiples
    balanced = metrics.Balanced(request.config, *standing, sums, active, checks, meter.engine.dealt)
    return metrics.text(host, balanced, idle)


def _drift(request: Request) -> bool:
    """Whether the host differs from its declaration. As long as nobody has committed rules since the last run, the
    rules are not read."""
    if unchanged.holds(request.paths):
        return False
    return reading.read(replace(request.paths, staged={}), request.variant, pending=True).drift
