# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user declares, read into typed values (`entities.py`).

`parse_config` is the only way in. What it returns is complete (every default filled in), normalised (addresses in
their canonical spelling, times in seconds) and free of contradictions.
"""

from __future__ import annotations

from typing import Any, Callable

from . import parse
from .conflicts import between
from .entities import (
    DEFAULT_MARK_MASK,
    EMPTY,
    FAMILIES,
    MAX_BACKENDS,
    MAX_SERVICES,
    MAX_WEIGHT,
    METHODS,
    PROTOCOLS,
    STATES,
    Backend,
    Config,
    Egress,
    Frontend,
    Health,
    Listen,
    Service,
    Uplink,
    dump,
    family_of,
    mark_value,
    ports_text,
    protocol_number,
)
from .errors import ConfigError, ConfigErrors
from .parse_egress import egress_rule, uplink_count
from .parse_egress import mark_mask as read_mark_mask
from .parse_health import health_check
from .parse_lists import distinct, networks, snat_choice

__all__ = [
    "EMPTY",
    "FAMILIES",
    "METHODS",
    "PROTOCOLS",
    "Backend",
    "Config",
    "Egress",
    "Frontend",
    "Health",
    "Listen",
    "Service",
    "Uplink",
    "dump",
    "family_of",
    "mark_value",
    "parse_config",
    "ports_text",
    "protocol_number",
]


def parse_config(services: Any, egress: Any = None, mark_mask: Any = None) -> Config:
    """Read `natlb_services` and `natlb_egress`.

    Raises `ConfigErrors` with every problem that was found: those within the services and egress rules first, and only
    where there are none, those between them.
    """
    errors: list[ConfigError] = []
    parsed_services = _each(services, "services", _service, errors)
    parsed_egress = _each(egress, "egress", egress_rule, errors)
    if len(parsed_services) > MAX_SERVICES:
        errors.append(ConfigError("services", f"{len(parsed_services)} services", f"at most {MAX_SERVICES}"))
    mask = DEFAULT_MARK_MASK
    try:
        mask = read_mark_mask(mark_mask)
    except ConfigError as error:
        errors.append(error)
    if not errors:
        errors.extend(between(parsed_services))
        errors.extend(uplink_count(parsed_egress, mask))
    if errors:
        raise ConfigErrors(errors)
    return Config(tuple(parsed_services), tuple(parsed_egress), mask)


def _each(value: Any, path: str, read: Callable[[Any, str], Any], errors: list[ConfigError]) -> list[Any]:
    found: list[Any] = []
    try:
        items = parse.sequence(value if value is not None else [], path)
    except ConfigError as error:
        errors.append(error)
        return found
    for index, item in enumerate(items):
        try:
            found.append(read(item, f"{path}[{index}]"))
        except ConfigError as error:
            errors.append(error)
    return found


_SERVICE_KEYS = (
    "name",
    "listen",
    "protocol",
    "interface",
    "method",
    "affinity",
    "snat",
    "allow_from",
    "max_connections_per_client",
    "new_connections_per_second",
    "when_empty",
    "log",
    "health",
    "backends",
)


def _service(value: Any, path: str) -> Service:
    given = parse.mapping(value, path, _SERVICE_KEYS, required=("name", "listen", "backends"))
    name = parse.name(given["name"], f"{path}.name")
    listens = tuple(distinct([_listen(item, at) for at, item in parse.one_or_more(given["listen"], f"{path}.listen")]))
    if not listens:
        raise ConfigError(f"{path}.listen", "is empty", "name at least one ADDRESS:PORT")
    protocols = _protocols(given.get("protocol", "tcp"), f"{path}.protocol")
    snat, snat_addresses = snat_choice(given.get("snat", "masquerade"), f"{path}.snat")
    interface = given.get("interface")
    service = Service(
        name=name,
        listens=listens,
        protocols=protocols,
        interface=None if interface is None else parse.interface(interface, f"{path}.interface"),
        method=parse.choice(given.get("method", "round_robin"), f"{path}.method", METHODS),
        affinity_s=parse.whole_seconds(given.get("affinity", 0), f"{path}.affinity", 0, 86400 * 7),
        snat=snat,
        snat_addresses=snat_addresses,
        allow_from=networks(given.get("allow_from", []), f"{path}.allow_from"),
        max_connections_per_client=parse.integer(
            given.get("max_connections_per_client", 0), f"{path}.max_connections_per_client", 0, 1000000
        ),
        new_connections_per_second=parse.integer(
            given.get("new_connections_per_second", 0), f"{path}.new_connections_per_second", 0, 10000
        ),
        when_empty=parse.choice(given.get("when_empty", "reject"), f"{path}.when_empty", ("reject", "drop")),
        log=parse.boolean(given.get("log", False), f"{path}.log"),
        health=health_check(given.get("health"), f"{path}.health"),
        backends=_backends(given["backends"], f"{path}.backends"),
    )
    _check_service(service, path)
    return service


def _listen(value: Any, path: str) -> Listen:
    remedy = 'write ADDRESS:PORT such as "192.0.2.10:80", "[2001:db8::10]:80", "192.0.2.10:8000-8010" or "*:30080"'
    if not isinstance(value, str):
        raise ConfigError(path, f"{parse.shown(value)} is not ADDRESS:PORT", remedy)
    host, colon, ports = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ConfigError(path, f"{parse.shown(value)} is not ADDRESS:PORT", remedy)
    low, high = parse.port_range(ports, path)
    if host == "*":
        return Listen(None, low, high)
    address = parse.host_address(host[1:-1] if bracketed else host, path)
    if bracketed != (address.version == 6):
        raise ConfigError(path, f"{parse.shown(value)} has brackets around an IPv4 address", remedy)
    return Listen(str(address), low, high)


def _protocols(value: Any, path: str) -> tuple[str, ...]:
    chosen = [parse.choice(item, at, PROTOCOLS) for at, item in parse.one_or_more(value, path)]
    if not chosen:
        raise ConfigError(path, "is empty", f"choose from {', '.join(PROTOCOLS)}")
    return tuple(protocol for protocol in PROTOCOLS if protocol in chosen)


def _backends(value: Any, path: str) -> tuple[Backend, ...]:
    items = parse.sequence(value, path)
    if len(items) > MAX_BACKENDS:
        raise ConfigError(path, f"{len(items)} backends", f"at most {MAX_BACKENDS} in one service")
    backends = [_backend(item, f"{path}[{index}]") for index, item in enumerate(items)]
    names: dict[str, int] = {}
    keys: dict[str, int] = {}
    for index, backend in enumerate(backends):
        if backend.key in keys:
            raise ConfigError(
                f"{path}[{index}]",
                f"{backend.address} stands at {path}[{keys[backend.key]}] already",
                "name it once, with a higher weight if it is to get more",
            )
        if backend.name in names:
            raise ConfigError(
                f"{path}[{index}].name",
                f"{backend.name} is the name of {path}[{names[backend.name]}] already",
                "give each backend of a service a name of its own",
            )
        keys[backend.key], names[backend.name] = index, index
    if backends and not any(backend.weight for backend in backends):
        raise ConfigError(
            path, "every weight is 0, so none could ever serve", "to take backends out, use state: drained or disabled"
        )
    return tuple(backends)


def _backend(value: Any, path: str) -> Backend:
    known = ("address", "port", "name", "weight", "state", "backup")
    given = parse.mapping(value, path, known, required=("address",))
    address = str(parse.host_address(given["address"], f"{path}.address"))
    port = given.get("port")
    name = given.get("name", address)
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not 0 < len(name) <= 253 or not name.isascii() or not name.isprintable():
        raise ConfigError(
            f"{path}.name", f"{parse.shown(name)} is not a name", "use up to 253 visible ASCII characters"
        )
    return Backend(
        address=address,
        port=None if port is None else parse.port(port, f"{path}.port"),
        name=name,
        weight=parse.integer(given.get("weight", 1), f"{path}.weight", 0, MAX_WEIGHT, "a weight"),
        state=parse.choice(given.get("state", "active"), f"{path}.state", STATES),
        backup=parse.boolean(given.get("backup", False), f"{path}.backup"),
    )


def _check_service(service: Service, path: str) -> None:
    """What no key shows on its own: whether the parts of one service fit together."""
    families = service.families()
    for index, backend in enumerate(service.backends):
        if backend.family not in families:
            raise ConfigError(
                f"{path}.backends[{index}].address",
                f"{backend.address} is not of the family that the service listens in",
                "NAT does not translate between IPv4 and IPv6; listen in that family too, or move the backend",
            )
        _check_loop(service, backend, f"{path}.backends[{index}]")
    backend_families = {backend.family for backend in service.backends}
    for family in families:
        if service.backends and family not in backend_families:
            raise ConfigError(
                f"{path}.listen",
                f"listens in {_family_name(family)}, but no backend has such an address",
                "backends must be of the family of the frontend",
            )
        if service.snat == "address" and not service.snat_of(family):
            raise ConfigError(f"{path}.snat", f"names no {_family_name(family)} address", "the service listens in it")
    for key, values in (("snat", service.snat_addresses), ("allow_from", service.allow_from)):
        for value in values:
            if family_of(value) not in families:
                problem = f"{value} is of a family that the service does not listen in"
                raise ConfigError(f"{path}.{key}", problem, "drop it")


def _check_loop(service: Service, backend: Backend, path: str) -> None:
    for listen in service.listens:
        if listen.address == backend.address and (backend.port is None or listen.low <= backend.port <= listen.high):
            raise ConfigError(
                path, f"{backend.address} is the frontend {listen} itself", "choose another port or another address"
            )


def _family_name(family: str) -> str:
    return "IPv6" if family == "ip6" else "IPv4"
