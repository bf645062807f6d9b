# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user declares, read into typed values (`entities.py`).

`parse_config` is the only way in. What it returns is complete (every default filled in), normalised (addresses in
their canonical spelling, times in seconds) and free of contradictions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Callable

from . import parse
from .entities import (
    DEFAULT_MARK_MASK,
    EMPTY,
    FAMILIES,
    HEALTH_KEYS,
    MAX_BACKENDS,
    MAX_SERVICES,
    MAX_UPLINK_WEIGHT_SUM,
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
from .overlaps import overlaps

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
    parsed_egress = _each(egress, "egress", _egress, errors)
    if len(parsed_services) > MAX_SERVICES:
        errors.append(ConfigError("services", f"{len(parsed_services)} services", f"at most {MAX_SERVICES}"))
    mask = DEFAULT_MARK_MASK
    try:
        mask = _mark_mask(mark_mask)
    except ConfigError as error:
        errors.append(error)
    if not errors:
        errors.extend(_between(parsed_services))
        errors.extend(_uplink_count(parsed_egress, mask))
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
    listens = tuple(_distinct([_listen(item, at) for at, item in parse.one_or_more(given["listen"], f"{path}.listen")]))
    if not listens:
        raise ConfigError(f"{path}.listen", "is empty", "name at least one ADDRESS:PORT")
    protocols = _protocols(given.get("protocol", "tcp"), f"{path}.protocol")
    snat, snat_addresses = _snat(given.get("snat", "masquerade"), f"{path}.snat")
    interface = given.get("interface")
    service = Service(
        name=name,
        listens=listens,
        protocols=protocols,
        interface=None if interface is None else parse.interface(interface, f"{path}.interface"),
        method=parse.choice(given.get("method", "round_robin"), f"{path}.method", METHODS),
        affinity_s=int(parse.duration(given.get("affinity", 0), f"{path}.affinity", 0, 86400 * 7)),
        snat=snat,
        snat_addresses=snat_addresses,
        allow_from=_networks(given.get("allow_from", []), f"{path}.allow_from"),
        max_connections_per_client=parse.integer(
            given.get("max_connections_per_client", 0), f"{path}.max_connections_per_client", 0, 1000000
        ),
        new_connections_per_second=parse.integer(
            given.get("new_connections_per_second", 0), f"{path}.new_connections_per_second", 0, 10000
        ),
        when_empty=parse.choice(given.get("when_empty", "reject"), f"{path}.when_empty", ("reject", "drop")),
        log=parse.boolean(given.get("log", False), f"{path}.log"),
        health=_health(given.get("health"), f"{path}.health"),
        backends=_backends(given["backends"], f"{path}.backends"),
    )
    _check_service(service, path)
    return service


def _distinct(items: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


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


def _snat(value: Any, path: str) -> tuple[str, tuple[str, ...]]:
    if value in ("masquerade", "none"):
        return str(value), ()
    addresses = _distinct([str(parse.host_address(item, at)) for at, item in parse.one_or_more(value, path)])
    if not addresses:
        raise ConfigError(path, "is empty", "write masquerade, none, or one or several addresses")
    return "address", tuple(addresses)


def _networks(value: Any, path: str) -> tuple[str, ...]:
    """Networks in their shortest equal form, so that no two of them overlap."""
    networks = [parse.network(item, at) for at, item in parse.one_or_more(value, path)]
    v4 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network))
    return tuple(str(network) for network in [*v4, *v6])


def _health(value: Any, path: str) -> Health | None:
    if value is None or value == "none":
        return None
    common = ("type", "interval", "timeout", "fall", "rise")
    every = (*common, "port", "path", "host", "status", "argv")
    given = parse.mapping(value, path, every, required=("type",))
    kind = parse.choice(given["type"], f"{path}.type", tuple(HEALTH_KEYS))
    parse.mapping(given, path, common + HEALTH_KEYS[kind])
    if kind == "none":
        return None
    health = Health(
        type=kind,
        port=parse.port(given["port"], f"{path}.port") if "port" in given else None,
        interval_s=parse.duration(given.get("interval", 2), f"{path}.interval", 0.1, 3600),
        timeout_s=parse.duration(given.get("timeout", 1), f"{path}.timeout", 0.05, 3600),
        fall=parse.integer(given.get("fall", 3), f"{path}.fall", 1, 100),
        rise=parse.integer(given.get("rise", 2), f"{path}.rise", 1, 100),
        path=_printable(given.get("path", "/"), f"{path}.path"),
        host=_printable(given["host"], f"{path}.host") if "host" in given else None,
        status=tuple(
            parse.integer(item, at, 100, 599, "an HTTP status")
            for at, item in parse.one_or_more(given.get("status", 200), f"{path}.status")
        ),
        argv=tuple(parse.text(item, at) for at, item in parse.one_or_more(given.get("argv", []), f"{path}.argv")),
    )
    if health.timeout_s > health.interval_s:
        raise ConfigError(f"{path}.timeout", "is longer than the interval", "answers would overlap; make it shorter")
    if kind == "command" and not health.argv:
        raise ConfigError(f"{path}.argv", "is missing", "name the program and its arguments as a list")
    return health


def _printable(value: Any, path: str) -> str:
    text = parse.text(value, path)
    if text and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise ConfigError(path, f"{parse.shown(text)} cannot stand in a request", "use visible ASCII without spaces")


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


def _egress(value: Any, path: str) -> Egress:
    known = ("source", "out_interface", "protocol", "destination_ports", "snat", "uplinks")
    given = parse.mapping(value, path, known, required=("source",))
    sources = _networks(given["source"], f"{path}.source")
    if not sources:
        raise ConfigError(f"{path}.source", "is empty", "name at least one network")
    protocol = parse.choice(given["protocol"], f"{path}.protocol", PROTOCOLS) if "protocol" in given else None
    ports = tuple(
        parse.port_range(str(item), at)
        for at, item in parse.one_or_more(given.get("destination_ports", []), f"{path}.destination_ports")
    )
    if ports and protocol is None:
        raise ConfigError(f"{path}.destination_ports", "needs a protocol", "add protocol: tcp, udp or sctp")
    snat, addresses = _snat(given.get("snat", "masquerade"), f"{path}.snat")
    if snat == "none" or len(addresses) > 1:
        raise ConfigError(
            f"{path}.snat", f"{parse.shown(given['snat'])} is not a choice here", "masquerade or one address"
        )
    interface = given.get("out_interface")
    egress = Egress(
        sources=sources,
        out_interface=None if interface is None else parse.interface(interface, f"{path}.out_interface"),
        protocol=protocol,
        ports=_merged(ports),
        snat=snat,
        snat_address=addresses[0] if addresses else None,
        uplinks=_uplinks(given.get("uplinks", []), f"{path}.uplinks"),
    )
    _check_egress(egress, path)
    return egress


def _merged(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Port ranges sorted, with overlapping and adjoining ones made one."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _uplinks(value: Any, path: str) -> tuple[Uplink, ...]:
    uplinks = []
    for index, item in enumerate(parse.sequence(value, path)):
        at = f"{path}[{index}]"
        given = parse.mapping(item, at, ("interface", "gateway", "weight"), required=("interface", "gateway"))
        uplinks.append(
            Uplink(
                interface=parse.interface(given["interface"], f"{at}.interface"),
                gateway=str(parse.address(given["gateway"], f"{at}.gateway")),
                weight=parse.integer(given.get("weight", 1), f"{at}.weight", 1, MAX_WEIGHT, "a weight"),
            )
        )
    if len({(uplink.interface, uplink.gateway) for uplink in uplinks}) != len(uplinks):
        raise ConfigError(path, "names the same uplink twice", "name it once, with a higher weight")
    if sum(uplink.weight for uplink in uplinks) > MAX_UPLINK_WEIGHT_SUM:
        raise ConfigError(path, "the weights are too large", f"their sum may be {MAX_UPLINK_WEIGHT_SUM} at most")
    return tuple(uplinks)


def _check_egress(egress: Egress, path: str) -> None:
    families = egress.families()
    if len(families) > 1 and (egress.snat_address or egress.uplinks):
        raise ConfigError(f"{path}.source", "mixes IPv4 and IPv6", "write one egress rule for each family")
    if egress.uplinks and egress.out_interface:
        raise ConfigError(f"{path}.out_interface", "stands beside uplinks", "the uplinks name the interfaces; drop it")
    if egress.uplinks and egress.snat_address:
        raise ConfigError(f"{path}.snat", "a fixed address does not fit every uplink", "use masquerade with uplinks")
    for index, uplink in enumerate(egress.uplinks):
        if family_of(uplink.gateway) not in families:
            raise ConfigError(
                f"{path}.uplinks[{index}].gateway", "is not of the family of the source", "use one that is"
            )
    if egress.snat_address and family_of(egress.snat_address) not in families:
        raise ConfigError(
            f"{path}.snat", f"{egress.snat_address} is not of the family of the source", "use one that is"
        )


def _mark_mask(value: Any) -> int:
    remedy = "write a run of adjoining bits such as 0x3f000000"
    if value is None:
        return DEFAULT_MARK_MASK
    try:
        mask = int(value, 0) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError("mark_mask", f"{parse.shown(value)} is not a number", remedy) from None
    shifted = mask // (mask & -mask) if mask else 0
    if isinstance(value, bool) or not 0 < mask < 2**32 or shifted & (shifted + 1):
        raise ConfigError("mark_mask", f"{parse.shown(value)} is not a mask", remedy)
    return mask


def _uplink_count(egress: Sequence[Egress], mask: int) -> list[ConfigError]:
    count = len(Config((), tuple(egress), mask).uplinks())
    room = mask // (mask & -mask)
    if count <= room:
        return []
    return [
        ConfigError("egress", f"{count} uplinks do not fit into the mark mask {mask:#x}", f"it has room for {room}")
    ]


def _between(services: Sequence[Service]) -> list[ConfigError]:
    """What is wrong between services: two of one name, or two that claim the same packets."""
    errors: list[ConfigError] = []
    names: dict[str, int] = {}
    for index, service in enumerate(services):
        if service.name in names:
            errors.append(
                ConfigError(
                    f"services[{index}].name",
                    f"{service.name} is the name of services[{names[service.name]}] already",
                    "give each service a name of its own",
                )
            )
        names.setdefault(service.name, index)
    claims = [(frontend, index) for index, service in enumerate(services) for frontend in service.frontends()]
    seen = set()
    for (first, one), (second, two) in overlaps(claims):
        low, high = sorted((one, two))
        if (low, high) not in seen:
            seen.add((low, high))
            errors.append(_overlap_error(services, (low, high), first, second))
    return errors or _source_nat_conflicts(services)


def _source_nat_conflicts(services: Sequence[Service]) -> list[ConfigError]:
    """Behind the balancer a connection no longer shows by which interface it came; its backend tells services apart."""
    errors: list[ConfigError] = []
    seen: dict[tuple[object, ...], tuple[int, Service]] = {}
    for index, service in enumerate(services):
        if service.interface is None:
            continue
        for frontend in service.frontends():
            for backend in service.backends:
                place = (frontend.family, frontend.protocol, frontend.address, frontend.low, frontend.high, backend.key)
                other_index, other = seen.setdefault(place, (index, service))
                if (other.snat, other.snat_addresses) != (service.snat, service.snat_addresses):
                    errors.append(
                        ConfigError(
                            f"services[{index}].snat",
                            f"{service.name} and {other.name} (services[{other_index}]) share {frontend} up to the "
                            f"interface and the backend {backend.address}, but not their snat",
                            "give both the same snat",
                        )
                    )
    return errors[:1]


def _overlap_error(
    services: Sequence[Service], pair: tuple[int, int], first: Frontend, second: Frontend
) -> ConfigError:
    low, high = pair
    if low == high:
        return ConfigError(
            f"services[{low}].listen", f"claims {first} and {second}, which overlap", "name each address and port once"
        )
    return ConfigError(
        f"services[{high}].listen",
        f"{services[high].name} and {services[low].name} (services[{low}]) both claim {first}",
        "an address, port and protocol belong to one service; change one of the two",
    )
