# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How single services are to be probed (`natlb_verify_probes`), checked. Pure."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model import values
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model.reading import NO_VALUE, Reading
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.packets import family_name, family_of
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.probe.settings import parse_settings

#: Options of the module `probe`.
MODULE = (
    *("target", "protocol", "connections", "concurrency", "timeout", "identify", "connect_only", "payload", "path"),
    *("host", "status", "source", "expected", "tolerance", "significance", "max_errors"),
)
#: Those, what backends call themselves, and the host that opens the connections.
KNOWN = (*MODULE, "names", "from")
#: What the module takes where nobody says otherwise, of what it does not do without.
_DEFAULTS: dict[str, Any] = {
    "target": "192.0.2.10:80",
    "protocol": "tcp",
    "connections": 100,
    "concurrency": 10,
    "timeout": "5s",
}


def nearest(name: str, known: Collection[str]) -> str | None:
    """The name that was most likely meant."""
    found = difflib.get_close_matches(name, sorted(known), n=1)
    return found[0] if found else None


def check(value: Any, path: str, known_host: Callable[[Any, str], None]) -> None:
    """Raise `ConfigErrors` with what is wrong with options by service; `known_host` refuses names of no host."""
    if not isinstance(value, Mapping):
        remedy = "write a mapping of services to options, such as {web: {tolerance: 0}}"
        raise ConfigError(path, f"{values.shown(value)} is not a mapping", remedy)
    reading = Reading()
    for service, options in value.items():
        reading.read(_of_service, options, f"{path}.{service}", known_host, otherwise=None)
    reading.done()


def _of_service(options: Any, path: str, known_host: Callable[[Any, str], None]) -> None:
    if not isinstance(options, Mapping):
        problem = f"{values.shown(options)} is not a mapping"
        raise ConfigError(path, problem, "write a mapping of options, such as {tolerance: 0}")
    reading = Reading()
    for key in options:
        if key not in KNOWN:
            meant = nearest(str(key), KNOWN)
            reading.add(
                f"{path}.{key}",
                "no such option",
                f"did you mean {meant}?" if meant else f"known keys: {', '.join(KNOWN)}",
            )
        elif options[key] is None:
            reading.add(f"{path}.{key}", NO_VALUE, "leave it out, or write a value")
    if "from" in options and options["from"] is not None:
        reading.read(known_host, options["from"], f"{path}.from", otherwise=None)
    if "names" in options and not isinstance(options["names"], Mapping):
        problem = f"{values.shown(options['names'])} is not a mapping"
        reading.add(f"{path}.names", problem, "write a mapping of backends to what they call themselves")
    try:
        parse_settings({**_DEFAULTS, **{key: _typed(key, options[key]) for key in MODULE if key in options}})
    except ConfigError as error:
        reading.add(f"{path}.{error.path}", error.problem, error.remedy)
    reading.done()


def _typed(key: str, value: Any) -> Any:
    """As the module's argument specification would hand it over."""
    if key in ("tolerance", "significance") and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value if value is not None else _DEFAULTS.get(key)


def spreads(service: Mapping[str, Any]) -> bool:
    """Whether the connections of one client to one address of a service, as `balancer_info` returns it, go to its
    backends by their shares."""
    chosen = service["method"] in ("source_hash", "destination_hash")
    return not (chosen or service.get("affinity") or service.get("pins"))


def limits_backends(service: Mapping[str, Any]) -> bool:
    """Whether a backend has a limit of connections, so that a service may refuse a client."""
    return any(backend.get("max_connections") for backend in service["backends"])


def answered_elsewhere(service: Mapping[str, Any]) -> dict[str, str]:
    """Why a balancer opens no connections of its own over a family: another host has a source address of it. Which of
    several one has is up to a hash, or to the backend."""
    found: dict[str, list[str]] = {}
    for address in service.get("snat_elsewhere") or ():
        found.setdefault(family_shown(address), []).append(address)
    return {
        family: f"answers to its source address {', '.join(addresses)} come to another host now"
        for family, addresses in found.items()
    }


def family_shown(host: str) -> str:
    """Its family, as it is told to people."""
    return family_name(family_of(host))


def not_for_itself(service: Mapping[str, Any]) -> str:
    """Why a balancer opens no connections of its own to a service; empty where it does."""
    if service.get("restricted"):
        return "not everybody may connect to it"
    if service.get("interface"):
        return f"it takes only what comes in by {service['interface']}"
    if limits_backends(service):
        return "its backends have limits, and the probes would take the room of clients"
    if all("/" in listen for listen in service["listen"]):
        return "the balancer's own connections to networks are not balanced"
    return ""
