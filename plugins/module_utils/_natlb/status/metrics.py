# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Prometheus is told of a balancer. Pure; `scrape.py` reads the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Callable, NamedTuple

from ..model.choices import EngineName
from ..model.effective import EffectiveBackend, Findings, Overrides, effective_backends, quorums
from ..model.entities import Backend, Config, Service
from ..model.least_connections import Multiples, levelled_service
from ..model.spelling import ports_text
from ..model.values import endpoint
from ..packets import Family
from ..plan.totals import Key
from .exposition import Exposition, Value, escaped, labels
from .info import expected_shares


class Vitals(NamedTuple):
    """How the agent is: since when it runs (seconds since 1970), the processor time of it and its children, and how
    often it has put rules back that somebody had changed. None is what it does not tell."""

    began: float | None = None
    spent_s: float | None = None
    restored: int | None = None


class Host(NamedTuple):
    """What is read of the host beside its services. None is what is not known."""

    digest: str
    engine: EngineName
    forwarding: bool
    drift: bool | None
    generation: int | None
    tracking: Mapping[str, int]
    applied_at: float | None
    apply_took_s: float | None
    apply_succeeded: bool | None
    agent: Vitals | None
    now: float
    left: bool = False


class Balanced(NamedTuple):
    """What is balanced, how it stands, and what it gets."""

    config: Config
    overrides: Overrides
    findings: Findings
    multiples: Multiples
    totals: Mapping[Key, int]
    active: Mapping[Key, int]
    #: As `health/overview.py` gives them.
    checks: Sequence[Mapping[str, Any]]
    #: See `Engine.dealt`.
    dealt: Callable[[Service, Family], Mapping[str, int]]


def text(host: Host, balanced: Balanced, idle: bool = True) -> str:
    """All metrics. Without `idle`, backends that serve, and have and had no connection, are left out."""
    found = Exposition()
    _host(found, host)
    _tracking(found, host.tracking)
    _services(found, balanced)
    _backends(found, balanced, idle)
    _checks(found, balanced.checks)
    return found.text()


def _host(found: Exposition, host: Host) -> None:
    def one(name: str, words: str, value: Value | None, **own: str) -> None:
        found.one(name, "gauge", words, value, **own)

    one("natlb_build_info", "The code of natlb on this host.", 1, digest=host.digest, engine=host.engine)
    one("natlb_forwarding", "Whether the kernel forwards packets.", host.forwarding)
    one("natlb_drift", "Whether the live rules differ from the declaration.", host.drift)
    one("natlb_left", "Whether an operator has taken this host out (natlb leave).", host.left)
    one("natlb_rules_generation", "The number of the last commit of nf_tables.", host.generation)
    one("natlb_agent_up", "Whether the agent answers.", host.agent is not None)
    _agent(found, host.agent or Vitals())
    applied = "natlb_last_apply"
    one(f"{applied}_timestamp_seconds", "When the last run was.", host.applied_at)
    one(f"{applied}_duration_seconds", "How long the last run took.", host.apply_took_s)
    one(f"{applied}_success", "Whether the last run succeeded.", host.apply_succeeded)
    one("natlb_metrics_timestamp_seconds", "When these metrics were collected.", host.now)


def _agent(found: Exposition, vitals: Vitals) -> None:
    name = "natlb_agent"
    found.one(f"{name}_start_time_seconds", "gauge", "When the agent was started.", vitals.began)
    words = "Processor time of the agent, its checks and its collections."
    found.one(f"{name}_cpu_seconds_total", "counter", words, vitals.spent_s)
    words = "How often the agent put rules back that somebody had changed."
    found.one(f"{name}_restored_rules_total", "counter", words, vitals.restored)


def _tracking(found: Exposition, tracking: Mapping[str, int]) -> None:
    name = "natlb_conntrack"
    found.one(f"{name}_entries", "gauge", "Connections that the kernel tracks.", tracking.get("count"))
    found.one(f"{name}_entries_limit", "gauge", "The most that it can track.", tracking.get("max"))
    for key, label, words in (
        ("drop", "dropped", "Packets dropped for want of room."),
        ("early_drop", "early_dropped", "Entries removed early to make room."),
        ("insert_failed", "clashes", "Entries that clashed with another."),
    ):
        found.one(f"{name}_{label}_total", "counter", words, tracking.get(key))


def _choosing(service: Service) -> dict[str, str]:
    whom = {"service": service.name, "method": service.method}
    return {**whom, "affinity": str(service.affinity_s), "pins": str(len(service.pins))}


def _services(found: Exposition, balanced: Balanced) -> None:
    services = balanced.config.services
    found.one("natlb_services", "gauge", "Services that are declared.", len(services))
    found.add(
        "natlb_service_info",
        "gauge",
        "How a service chooses: its method, for how many seconds a client keeps its backend, and how many pins it has.",
        ((labels(_choosing(item)), 1) for item in services),
    )
    found.add("natlb_frontend_info", "gauge", "Where a service listens.", _frontends(services))


def _frontends(services: Sequence[Service]) -> Iterator[tuple[str, Value]]:
    for service in services:
        for item in service.frontends():
            own = {"service": service.name, "family": item.family, "protocol": item.protocol}
            own |= {"address": item.address or "*", "port": ports_text(item.low, item.high)}
            yield labels({**own, "interface": item.interface or ""}), 1


class _Backend(NamedTuple):
    """A backend with the labels that all of its samples have."""

    own: str
    item: EffectiveBackend
    share: float
    total: int
    active: int

    def with_label(self, name: str, value: str) -> str:
        return f'{self.own[:-1]},{name}="{escaped(value)}"}}'


def _backends(found: Exposition, balanced: Balanced, idle: bool) -> None:
    serving: list[tuple[str, Value]] = []
    below: list[tuple[str, Value]] = []
    backends: list[_Backend] = []
    for service in balanced.config.services:
        standing, effective = _standing(service, balanced)
        serving += [
            (labels({"service": service.name, "family": family}), len(effective.serving(family)))
            for family in service.families()
        ]
        below += _below(service, standing, balanced.findings)
        shares = expected_shares(effective, balanced.dealt)
        # What all backends of a service have in common is written once: with ten thousand services that is felt.
        of = labels({"service": service.name})[:-1]
        for item in standing:
            key = service.name, item.declared.key
            totals = balanced.totals.get(key, 0), balanced.active.get(key, 0)
            if idle or any(totals) or item.because != "declared" or item.effective.state != "active":
                own = f'{of},backend="{escaped(item.declared.name)}",address="{_address(item.declared)}"}}'
                backends.append(_Backend(own, item, shares[item.declared.key], *totals))
    name = "natlb_backend"
    found.add("natlb_service_serving_backends", "gauge", "Backends that get new connections.", serving)
    words = "Whether fewer backends are healthy than min_healthy asks for."
    found.add("natlb_service_below_min_healthy", "gauge", words, below)
    found.add(
        f"{name}_state",
        "gauge",
        "1 for the state that a backend has, by declaration, override and health.",
        ((one.with_label("state", one.item.effective.state), 1) for one in backends),
    )
    found.add(
        f"{name}_up",
        "gauge",
        "Whether health checks found a backend well.",
        ((one.own, one.item.finding.state != "down") for one in backends if one.item.finding is not None),
    )
    found.add(
        f"{name}_weight", "gauge", "The weight of a backend.", ((o.own, o.item.intended.weight) for o in backends)
    )
    words = "The most connections that a backend has at a time. Backends without a limit are left out."
    limits = ((one.own, one.item.declared.max_connections) for one in backends if one.item.declared.max_connections)
    found.add(f"{name}_max_connections", "gauge", words, limits)
    words = "The part of new connections that a backend is to get."
    found.add(f"{name}_expected_share_ratio", "gauge", words, ((one.own, one.share) for one in backends))
    words = "New connections that a backend got."
    found.add(f"{name}_connections_total", "counter", words, ((one.own, one.total) for one in backends))
    words = "Connections that a backend has."
    found.add(f"{name}_active_connections", "gauge", words, ((one.own, one.active) for one in backends))


def _below(service: Service, standing: Sequence[EffectiveBackend], findings: Findings) -> Iterator[tuple[str, Value]]:
    for count in quorums(service, standing, findings):
        yield labels({"service": service.name, "family": count.family}), count.is_below


def _address(backend: Backend) -> str:
    return escaped(endpoint(backend.address, backend.port))


def _standing(service: Service, balanced: Balanced) -> tuple[list[EffectiveBackend], Service]:
    found = effective_backends(service, balanced.overrides, balanced.findings)
    if all(item.effective is item.declared for item in found):
        return found, levelled_service(service, balanced.multiples)
    effective = replace(service, backends=tuple(item.effective for item in found))
    return found, levelled_service(effective, balanced.multiples)


def _checks(found: Exposition, checks: Sequence[Mapping[str, Any]]) -> None:
    states = [(labels({"check": str(item["check"])}), item) for item in checks]
    last = [(own, item["last"]) for own, item in states if item["last"]["result"] is not None]
    name = "natlb_check"
    words = "Whether the last check succeeded."
    found.add(f"{name}_success", "gauge", words, ((own, item["result"] != "down") for own, item in last))
    words = "How long the last check took."
    took = ((own, item["took_s"]) for own, item in last if item["took_s"] is not None)
    found.add(f"{name}_duration_seconds", "gauge", words, took)
