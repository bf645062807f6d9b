# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declaration, read into typed values (`entities.py`).

`parse_config` is the only entry. Its result is complete (every default filled in), normalised (addresses in their
canonical spelling, times in seconds) and free of contradictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Callable, NamedTuple, TypeVar

from ..errors import ConfigError, ConfigErrors
from . import redispatch, words
from . import values as parse
from .conflicts import between
from .egress import egress_rule, uplink_count
from .egress import mark_mask as read_mark_mask
from .entities import (
    DEFAULT_MARK_MASK,
    MAX_BACKENDS,
    MAX_SERVICES,
    MAX_WEIGHT,
    PROTOCOLS,
    REFUSALS,
    Backend,
    Config,
    Frontend,
    Listen,
    Protocol,
    Service,
    Snat,
    family_of,
    is_everything,
)
from .health import Health, health_check
from .lists import distinct, networks, snat_choice
from .ranges import collapsed
from .reading import Reading

T = TypeVar("T")
_MASQUERADE: tuple[Snat, tuple[str, ...]] = ("masquerade", ())


class Known(NamedTuple):
    """What is known of a list of services before it is read. `services` are those, by their places, that have been read
    before. `former` is what stood at all other places of such a list, or None where that had others, or elsewhere."""

    services: Mapping[int, Service]
    former: Mapping[int, Service] | None = None

    def claims(self, services: Mapping[int, Service]) -> bool:
        """Whether all of these have the names and frontends that they had then, when there were no conflicts."""
        former = self.former
        return former is not None and all(
            number in services and _claims(service) == _claims(services[number]) for number, service in former.items()
        )


def _claims(service: Service) -> tuple[str, tuple[Frontend, ...]]:
    return service.name, service.frontends()


def parse_config(services: Any, egress: Any = None, mark_mask: Any = None, known: Known | None = None) -> Config:
    """Read `natlb_services` and `natlb_egress`; `known` is what need not be read.

    Raises `ConfigErrors` with all errors. The parts of a service are checked against each other if each of them is
    valid, and services against each other if they are valid themselves.
    """
    reading = Reading()
    parsed_services = _each(services, "services", _service, reading, known.services if known else {})
    parsed_egress = _each(egress, "egress", egress_rule, reading, {})
    if len(parsed_services) > MAX_SERVICES:
        reading.add("services", f"{len(parsed_services)} services", f"at most {MAX_SERVICES}")
    mask = reading.read(read_mark_mask, mark_mask, otherwise=DEFAULT_MARK_MASK)
    if known is None or not known.claims(parsed_services):
        reading.errors.extend(between(parsed_services))
    if not reading.errors:
        reading.errors.extend(uplink_count(list(parsed_egress.values()), mask))
    reading.done()
    return Config(tuple(parsed_services.values()), tuple(parsed_egress.values()), mask)


def _each(
    value: Any, path: str, function: Callable[[Any, str], T], reading: Reading, known: Mapping[int, T]
) -> dict[int, T]:
    """The items that can be read, by their places."""
    found: dict[int, T] = {}
    items: list[Any] = reading.read(parse.sequence, value if value is not None else [], path, otherwise=[])
    for index, item in enumerate(items):
        if index in known:
            found[index] = known[index]
            continue
        for parsed in reading.each(function, [(f"{path}[{index}]", item)]):
            found[index] = parsed
    return found


SERVICE_KEYS = (
    "name",
    "listen",
    "protocol",
    "interface",
    "method",
    "affinity",
    "snat",
    "allow_from",
    "deny_from",
    "when_denied",
    "max_connections_per_client",
    "new_connections_per_second",
    "when_empty",
    "log",
    "health",
    "redispatch",
    "backends",
)


_LIMITS = ("max_connections_per_client", "new_connections_per_second")
_NOBODY = "leave it out to allow everybody, or name networks"


def _service(value: Any, path: str) -> Service:
    reading = Reading()
    given = reading.mapping(value, path, SERVICE_KEYS, ("name", "listen", "backends"))

    def read(key: str, otherwise: T, function: Callable[..., T], *more: Any) -> T:
        if key not in given:
            return otherwise
        return reading.read(function, given[key], f"{path}.{key}", *more, otherwise=otherwise)

    snat, snat_addresses = read("snat", _MASQUERADE, snat_choice)
    health: Health | None = read("health", None, health_check)
    protocols: tuple[Protocol, ...] = read("protocol", ("tcp",), _protocols)
    backends: tuple[Backend, ...] = read("backends", (), _backends)
    allow: tuple[str, ...] = read("allow_from", (), networks, _NOBODY)
    deny: tuple[str, ...] = read("deny_from", (), networks, _NOBODY)
    most, rate = _LIMITS
    service = Service(
        name=read("name", "", parse.name),
        listens=read("listen", (), _listens),
        protocols=protocols,
        interface=read("interface", None, parse.interface),
        method=read("method", "round_robin", words.method),
        affinity_s=read("affinity", 0, parse.whole_seconds, 0, 86400 * 7),
        snat=snat,
        snat_addresses=snat_addresses,
        allow_from=collapsed(allow) if not deny else allow,
        deny_from=collapsed(deny) if not allow else deny,
        when_denied=read("when_denied", "reject", parse.choice, REFUSALS),
        max_connections_per_client=read(most, 0, parse.integer, 0, 1000000),
        new_connections_per_second=read(rate, 0, parse.integer, 0, 10000),
        when_empty=read("when_empty", "reject", parse.choice, REFUSALS),
        log=read("log", False, parse.boolean),
        health=health,
        redispatch=read("redispatch", redispatch.by_default(health, protocols, backends), parse.boolean),
        backends=backends,
    )
    reading.done()
    _check_service(service, path)
    return service


def _listens(value: Any, path: str) -> tuple[Listen, ...]:
    reading = Reading()
    listens = reading.each(_listen, parse.one_or_more(value, path))
    reading.done()
    if not listens:
        raise ConfigError(path, "is empty", "name at least one ADDRESS:PORT")
    return tuple(distinct(listens))


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


def _protocols(value: Any, path: str) -> tuple[Protocol, ...]:
    reading = Reading()
    chosen = reading.each(lambda item, at: parse.choice(item, at, PROTOCOLS), parse.one_or_more(value, path))
    reading.done()
    if not chosen:
        raise ConfigError(path, "is empty", f"choose from {', '.join(PROTOCOLS)}")
    return tuple(protocol for protocol in PROTOCOLS if protocol in chosen)


def _backends(value: Any, path: str) -> tuple[Backend, ...]:
    items = (
        [item for _at, item in parse.one_or_more(value, path)]
        if isinstance(value, str)
        else parse.sequence(value, path)
    )
    if len(items) > MAX_BACKENDS:
        raise ConfigError(path, f"{len(items)} backends", f"at most {MAX_BACKENDS} in one service")
    reading = Reading()
    places: dict[str, str] = {}
    names: dict[str, str] = {}
    backends: list[Backend] = []
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        for backend in reading.each(_backend, [(at, item)]):
            backends.append(backend)
            if backend.key in places:
                problem = f"{backend.address} stands at {places[backend.key]} already"
                reading.add(at, problem, "name it once, with a higher weight if it is to get more")
            elif backend.name in names:
                problem = f"{backend.name} is the name of {names[backend.name]} already"
                reading.add(f"{at}.name", problem, "give each backend of a service a name of its own")
            places.setdefault(backend.key, at)
            names.setdefault(backend.name, at)
    if not reading.errors and backends and not any(backend.weight for backend in backends):
        remedy = "to take backends out, use state: drained or disabled"
        reading.add(path, "every weight is 0, so none could ever serve", remedy)
    shares = [isinstance(item, Mapping) and words.is_percentage(item.get("weight")) for item in items]
    if any(shares) and len(shares) != sum(shares):
        problem, remedy = "some weights are percentages, and others are not", "write all of them in one way"
        reading.add(path, problem, remedy)
    reading.done()
    return tuple(backends)


BACKEND_KEYS = ("address", "port", "name", "weight", "state", "backup")


def _backend(value: Any, path: str) -> Backend:
    """Services share their backends, so a valid one is not read again."""
    try:
        return _read_before(tuple((key, type(item), item) for key, item in value.items()))
    except (AttributeError, TypeError, ConfigError, ConfigErrors):
        return _read_backend(value, path)


@lru_cache(maxsize=65536)
def _read_before(items: tuple[tuple[str, type, Any], ...]) -> Backend:
    """The backend of these keys and values. Their types are part of the key, for 1 and True are equal and do not mean
    the same."""
    return _read_backend({key: item for key, _type, item in items}, "")


def _read_backend(value: Any, path: str) -> Backend:
    reading = Reading()
    given = reading.mapping({"address": value} if isinstance(value, str) else value, path, BACKEND_KEYS, ("address",))
    given = reading.read(_with_port, given, f"{path}.address", otherwise=given)

    def read(key: str, otherwise: T, function: Callable[..., T], *more: Any) -> T:
        if key not in given:
            return otherwise
        return reading.read(function, given[key], f"{path}.{key}", *more, otherwise=otherwise)

    address = str(read("address", None, parse.host_address))
    backend = Backend(
        address=address,
        port=read("port", None, parse.port),
        name=read("name", address, _backend_name),
        weight=read("weight", 1, words.weight, MAX_WEIGHT),
        state=read("state", "active", words.state),
        backup=read("backup", False, parse.boolean),
    )
    reading.done()
    return backend


def _with_port(given: dict[str, Any], path: str) -> dict[str, Any]:
    """With the port on its own, which may stand behind the address."""
    if not isinstance(given.get("address"), str):
        return given
    address, port = words.endpoint(given["address"], path)
    if port is None:
        return {**given, "address": address} if address != given["address"] else given
    if "port" in given:
        raise ConfigError(
            path, f"{parse.shown(given['address'])} has a port, and port is given as well", "write it once"
        )
    return {**given, "address": address, "port": port}


def _backend_name(value: Any, path: str) -> str:
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(name, str) and 0 < len(name) <= 253 and name.isascii() and name.isprintable():
        return name
    raise ConfigError(path, f"{parse.shown(name)} is not a name", "use up to 253 visible ASCII characters")


def _check_service(service: Service, path: str) -> None:
    """Checks whether the parts of one service fit together."""
    reading = Reading()
    if service.redispatch and "tcp" not in service.protocols:
        problem = f"there is none for {' and '.join(service.protocols)}"
        reading.add(f"{path}.redispatch", problem, "leave it out: only TCP clients repeat a refused attempt")
    families = service.families()
    for index, backend in enumerate(service.backends):
        at = f"{path}.backends[{index}]"
        if backend.family not in families:
            problem = f"{backend.address} is not of the family that the service listens in"
            remedy = "NAT does not translate between IPv4 and IPv6; listen in that family too, or move the backend"
            reading.add(f"{at}.address", problem, remedy)
        for listen in filter(backend.is_at, service.listens):
            problem = f"{backend.address} is the frontend {listen} itself"
            reading.add(at, problem, "choose another port or another address")
    _check_health(service, path, reading)
    backend_families = {backend.family for backend in service.backends}
    for family in families:
        title = family_name(family)
        if service.backends and family not in backend_families:
            problem = f"listens in {title}, but no backend has such an address"
            reading.add(f"{path}.listen", problem, "backends must be of the family of the frontend")
        if service.snat == "address" and not service.snat_of(family):
            reading.add(f"{path}.snat", f"names no {title} address", "the service listens in it")
    _check_clients(service, path, reading)
    lists = {"snat": service.snat_addresses, "allow_from": service.allow_from, "deny_from": service.deny_from}
    for key, values in lists.items():
        strange = [value for value in values if family_of(value) not in families]
        if strange:
            problem = f"{parse.shown(', '.join(strange))} is of a family that the service does not listen in"
            reading.add(f"{path}.{key}", problem.replace("'", ""), "drop it")
    reading.done()


def _check_clients(service: Service, path: str, reading: Reading) -> None:
    both = [network for network in service.deny_from if network in service.allow_from]
    if both:
        problem = f"{both[0]} stands in allow_from as well"
        reading.add(f"{path}.deny_from", problem, "take it out of one of them: the longest prefix decides")
        return
    for family in service.families():
        denied = [network for network in service.deny_from if family_of(network) == family]
        found = service.admission(family) if denied else None
        if found is not None and (not found.networks if found.only else any(map(is_everything, found.networks))):
            problem = f"leaves no {family_name(family)} client that may connect"
            reading.add(f"{path}.deny_from", problem, "allow some, or take the service away")


def _check_health(service: Service, path: str, reading: Reading) -> None:
    health = service.health
    unported = service.listen_port is None and any(backend.port is None for backend in service.backends)
    if health is not None and health.type != "command" and health.port is None and unported:
        problem = "is missing: the service listens on several ports, and a backend has none of its own"
        reading.add(f"{path}.health.port", problem, "name the port to check")


def family_name(family: str) -> str:
    """For people."""
    return "IPv6" if family == "ip6" else "IPv4"
