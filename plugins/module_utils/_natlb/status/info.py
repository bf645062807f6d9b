# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The current state of the kernel, compared with the declaration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Callable

from ..errors import HostError
from ..host import flows as tracked
from ..host import left, nf_tables, proc, sysctl
from ..host.routes import Routes, Ways
from ..host.store import DEFAULT_PATHS, Paths
from ..model import clients, history, snat_ports, tracking
from ..model.choices import Variant
from ..model.effective import Count, EffectiveBackend, Place, effective_backends, quorums
from ..model.entities import Config, Service, dump
from ..model.history import History
from ..model.least_connections import levelled_service
from ..model.local_state import said
from ..model.takeover import Obstacle, obstacles
from ..packets import PROTOCOLS, Family
from ..plan import agent_files, forwarding, health_history, orders, reading
from ..plan.apply import Plan
from ..plan.request import Request
from ..plan.stale_flows import Frontends
from ..warnings import addresses

#: TCP states in which neither end has finished; TIME_WAIT and CLOSE linger for minutes and carry nothing.
_TCP_ACTIVE = ("SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK")

Counts = dict[tuple[str, str], int]


def info(
    *,
    service: str | None = None,
    pending: bool = False,
    paths: Paths = DEFAULT_PATHS,
    iptables_variant: Variant | None = None,
) -> dict[str, Any]:
    """State of this host's balancer, as the module `balancer_info` returns it.

    `drift` is that of `reading.Reading`. With `pending` the declaration is that of a change that waits for its
    confirmation, if there is one.
    Raises `HostError` where the host cannot be read, or where no service has the name that is asked for.
    """
    if os.geteuid() != 0:
        raise HostError("only root may read the rules of this host (become: true)")
    found = reading.read(paths, iptables_variant, pending)
    plan, request, config = found.plan, found.plan.request, found.plan.request.config
    if service is not None:
        orders.named(config, service)
    warnings = [*found.unread, *plan.outcome().warnings, *(part.obstacle for part in plan.parts if part.obstacle)]
    new, clients_known = plan.engine.counters(plan.laid.live)
    warnings += [*left.told(paths), *clients.warnings(clients_known), *agent_files.troubles(request)]
    active = _active(config, warnings)
    usage = _conntrack(warnings)
    kept, refused = health_history.read(paths), obstacles(config.services)
    elsewhere = addresses.elsewhere(config.services, proc.local_addresses(), Routes().connected)
    return {
        "engine": plan.engine.name,
        "forwarding": forwarding.is_on(config),
        "forwards_transit": _forwards_transit(request),
        "drift": found.drift,
        "agent": agent_files.answers(request),
        "warnings": warnings,
        "conntrack": usage,
        "generation": nf_tables.generation(),
        "egress": dump(Config((), config.egress))["egress"],
        "services": [
            {
                **_service(item, plan, new, active, clients_known, kept, refused.get(item.name)),
                "snat_elsewhere": elsewhere.get(item.name, []),
            }
            for item in config.services
            if service is None or item.name == service
        ],
    }


def _forwards_transit(request: Request) -> bool:
    """Whether the host is a router for all traffic, in a family that it balances."""
    on = [f for f in request.config.families() if sysctl.get(forwarding.NAMES[f]) == "1"]
    return any(request.transit == "accept" or family not in request.before.closed for family in on)


def _conntrack(warnings: list[str]) -> dict[str, int]:
    """How full the table is, and what was lost since the kernel started."""
    count = sysctl.number("net/netfilter/nf_conntrack_count")
    most = sysctl.number("net/netfilter/nf_conntrack_max")
    warning = tracking.fill_warning(count, most)
    if warning:
        warnings.append(warning)
    return {"count": count, "max": most, **tracking.statistics(proc.conntrack_statistics())}


def _active(config: Config, warnings: list[str]) -> Counts | None:
    """Tracked connections by (service, backend key); None where conntrack(8) cannot say."""
    local = proc.local_addresses()
    ways = Ways(Routes().ways) if any(item.interface for item in config.services) else Ways([])
    counts: Counts = {}
    for protocol in PROTOCOLS:
        frontends = Frontends(config, protocol, local)
        if not frontends:
            continue
        try:
            for family in config.families():
                for flow in tracked.listed(family, protocol):
                    if protocol == "tcp" and flow.state not in _TCP_ACTIVE:
                        continue
                    _count(frontends, flow, counts, ways)
        except HostError as error:
            warnings.append(f"active connections cannot be counted: {error}")
            return None
    return counts


def _count(frontends: Frontends, flow: tracked.Flow, counts: Counts, ways: Ways) -> None:
    answerer = (flow.answerer, flow.answerer_port)
    owners = frontends.owners(flow.family, (flow.target, flow.target_port), answerer)
    if len(owners) > 1:
        # Services on several interfaces, or one and any, that share a backend: a client mostly comes in by where its
        # answers go out.
        way = ways.interface(flow.source)
        owners = [service for service in owners if service.interface in (None, way)] or owners
    for backend in owners[0].backends_at(answerer, flow.target_port) if owners else ():
        key = (owners[0].name, backend.key)
        counts[key] = counts.get(key, 0) + 1


def _service(
    service: Service,
    plan: Plan,
    new: Counts,
    active: Counts | None,
    known: clients.KnownClients,
    kept: History,
    why: Obstacle | None,
) -> dict[str, Any]:
    standing = effective_backends(service, plan.laid.overrides, plan.laid.findings)
    effective = replace(service, backends=tuple(item.effective for item in standing))
    shares = expected_shares(levelled_service(effective, plan.laid.multiples), plan.engine.dealt)
    return {
        "name": service.name,
        "listen": [str(listen) for listen in service.listens],
        "protocol": list(service.protocols),
        "method": service.method,
        "affinity": service.affinity_s,
        "pins": len(service.pins),
        "health": service.health.type if service.health else None,
        "redispatch": service.redispatch,
        "takeover": why is None,
        "takeover_reason": why and str(why),
        "mark": service.mark and str(service.mark),
        "interface": service.interface,
        "restricted": bool(service.allow_from or service.deny_from),
        "max_connections_per_client": service.max_connections_per_client,
        "new_connections_per_second": service.new_connections_per_second,
        "snat_connections": snat_ports.room(service),
        "known_clients": clients.shown(service, known),
        "min_healthy": [_quorum(count) for count in quorums(service, standing, plan.laid.findings)],
        "backends": [
            {
                **_backend(item),
                "health_history": _history(service, item, kept),
                "expected_share": shares[item.declared.key],
                "new_connections": new.get((service.name, item.declared.key), 0),
                "active_connections": None if active is None else active.get((service.name, item.declared.key), 0),
            }
            for item in standing
        ],
    }


def _quorum(count: Count) -> dict[str, Any]:
    return {
        "family": count.family,
        "healthy": count.healthy,
        "of": count.declared,
        "needed": count.needed,
        "below": count.is_below,
        "since": count.since or None,
    }


def _backend(item: EffectiveBackend) -> dict[str, Any]:
    """The declared values, the override, and the findings of health checks of a backend."""
    backend, override, finding = item.declared, item.override, item.finding
    return {
        "name": backend.name,
        "address": backend.address,
        "port": backend.port,
        "shift": backend.shift,
        "weight": item.intended.weight,
        "state": item.intended.state,
        "backup": backend.backup,
        "max_connections": backend.max_connections,
        "mark": backend.mark and str(backend.mark),
        "declared": {"weight": backend.weight, "state": backend.state},
        "override": None if override is None or override.idle else said(override),
        "health": "unchecked" if finding is None else finding.state,
        "health_since": "" if finding is None else finding.since,
        "health_reason": "" if finding is None else finding.reason,
        "because": item.because,
        "why": item.why(),
    }


def _history(service: Service, item: EffectiveBackend, kept: History) -> list[dict[str, str]]:
    place = Place(service.name, item.declared.address, item.declared.port)
    return [
        {"state": found.state, "since": found.since, "reason": found.reason}
        for found in history.of(kept, place, item.finding)
    ]


def expected_shares(service: Service, deal: Callable[[Service, Family], Mapping[str, int]]) -> dict[str, float]:
    """Share of a family's new connections by backend key, as an engine deals them out (`Engine.dealt`)."""
    shares = {backend.key: 0.0 for backend in service.backends}
    for family in service.families():
        dealt = deal(service, family)
        for key, count in dealt.items():
            shares[key] = round(count / sum(dealt.values()), 4)
    return shares
