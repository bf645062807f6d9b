# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A service as JSON has it, for the request that is kept (`kept.py` reads it). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .hash_keys import WHOLE
from .health import dump_health
from .quorum import dump as dump_quorum
from .spelling import ports_text

if TYPE_CHECKING:
    from .entities import Backend, Service


#: Keys that stand in a dump only where a service, or a backend, uses them, with the value of those that do not.
UNUSED: dict[str, Any] = {
    "interface": None,
    "affinity": 0,
    "client_prefix": None,
    "snat_ports": None,
    "mark": None,
    "idle_timeout": None,
    "helper": None,
    "snat_by_client": [],
    "allow_from": [],
    "deny_from": [],
    "max_connections_per_client": 0,
    "new_connections_per_second": 0,
    "log": False,
    "log_prefix": None,
    "health": None,
    "takeover": None,
    "min_healthy": None,
    "min_healthy_again": None,
    "pins": [],
}
UNUSED_OF_BACKENDS: dict[str, Any] = {
    "backup": False,
    "max_connections": 0,
    "snat": None,
    "mark": None,
    "priority": None,
}


def dump_service(service: Service) -> dict[str, Any]:
    """It as JSON has it. A choice is always there, since its default may be another one in a later version. What is not
    used is not: ten thousand services are read and written at each run. And an earlier version does not meet keys that
    it does not know."""
    found = {
        "name": service.name,
        "listen": [str(listen) for listen in service.listens],
        "protocol": list(service.protocols),
        "interface": service.interface,
        "method": service.method,
        "affinity": service.affinity_s,
        "client_prefix": None if service.client_prefix == WHOLE else service.client_prefix.dump(),
        "snat": service.source_nat.usual.dump(),
        "snat_ports": None if service.snat_ports is None else ports_text(*service.snat_ports),
        "mark": service.mark and str(service.mark),
        "idle_timeout": service.idle_timeout_s or None,
        "helper": service.helper,
        "snat_by_client": [rule.dump() for rule in service.snat_by_client],
        "allow_from": list(service.words.allow_from or service.allow_from),
        "deny_from": list(service.words.deny_from or service.deny_from),
        "when_denied": service.when_denied,
        "max_connections_per_client": service.max_connections_per_client,
        "new_connections_per_second": service.new_connections_per_second,
        "when_empty": service.when_empty,
        "log": service.log,
        "log_prefix": service.log_prefix,
        "health": None if service.health is None else dump_health(service.health),
        "redispatch": service.redispatch,
        "takeover": service.takeover,
        **dump_quorum(service.quorum),
        "pins": [pin.dump() for pin in service.pins],
        "backups": service.backups,
        "backends": list(map(_dump_backend, service.backends)),
    }
    return {key: value for key, value in found.items() if key not in UNUSED or value != UNUSED[key]}


def _dump_backend(backend: Backend) -> dict[str, Any]:
    found: dict[str, Any] = {
        "address": backend.address,
        "port": backend.given_port,
        "name": backend.name,
        "weight": backend.weight,
        "state": backend.state,
    }
    if backend.backup:
        found["backup"] = True
    if backend.max_connections:
        found["max_connections"] = backend.max_connections
    if backend.snat is not None:
        found["snat"] = backend.snat.text()
    if backend.mark is not None:
        found["mark"] = str(backend.mark)
    if backend.priority:
        found["priority"] = backend.priority
    return found
