# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declaration, read into typed values (`entities.py`).

`parse_config` is the only entry. Its result is complete (every default filled in), normalised (addresses in their
canonical spelling, times in seconds) and free of contradictions.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Callable, NamedTuple, TypeVar

from ..errors import ConfigError
from . import mark_keys, redispatch, snat_ports, takeover, words
from . import values as parse
from .backends import read_backends
from .backups import BACKUPS
from .conflicts import between
from .egress import egress_rule, uplink_count
from .egress import mark_mask as read_mark_mask
from .entities import (
    MAX_CONNECTIONS,
    MAX_SERVICES,
    MAX_WAIT_S,
    PROTOCOLS,
    REFUSALS,
    Backend,
    Config,
    Listen,
    Protocol,
    Service,
)
from .fitting import check_service
from .hash_keys import WHOLE, client_prefix
from .health import Health, health_check
from .helpers import HELPERS
from .listens import listens
from .lists import networks, snat_choice
from .outbound import DEFAULT_MARK_MASK
from .pins import read_pins
from .quorum import quorum, read_least
from .ranges import collapsed
from .reading import Reading
from .snat_keys import read_by_client
from .source_nat import Snat

T = TypeVar("T")
_MASQUERADE: tuple[Snat, tuple[str, ...]] = ("masquerade", ())


class Known(NamedTuple):
    """What is known of a list of services before it is read. `services` are those, by their places, that have been read
    before. `former` is what stood at all other places of such a list, or None where that had others, or elsewhere."""

    services: Mapping[int, Service]
    former: Mapping[int, Service] | None = None

    def claims(self, services: Mapping[int, Service]) -> bool:
        """Whether all of these claim what they did then, without conflicts."""
        former = self.former
        return former is not None and all(
            number in services and _claims(service) == _claims(services[number]) for number, service in former.items()
        )


def _claims(service: Service) -> Hashable:
    # What networks and `*` have in common is told apart by backends; see `sources_of_networks.py`.
    exact = all(frontend.exact for frontend in service.frontends())
    places = () if exact else tuple((item.address, item.port, item.shift) for item in service.backends)
    return service.name, service.frontends(), service.source_nat, places


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
    reading.errors.extend(takeover.errors(parsed_services))
    reading.errors.extend(snat_ports.collisions(parsed_services))
    reading.errors.extend(mark_keys.collisions(parsed_services, parsed_egress, mask))
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
    "client_prefix",
    "snat",
    "snat_by_client",
    "snat_ports",
    "mark",
    "idle_timeout",
    "helper",
    "allow_from",
    "deny_from",
    "when_denied",
    "max_connections_per_client",
    "new_connections_per_second",
    "when_empty",
    "log",
    "log_prefix",
    "health",
    "redispatch",
    "takeover",
    "min_healthy",
    "min_healthy_again",
    "pins",
    "backups",
    "backends",
)


_MOST, _RATE = "max_connections_per_client", "new_connections_per_second"
_NO_LEAST = "add min_healthy, or leave it out"
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
    listening: tuple[Listen, ...] = read("listen", (), listens)
    backends: tuple[Backend, ...] = read("backends", (), read_backends, listening)
    allow: tuple[str, ...] = read("allow_from", (), networks, _NOBODY)
    deny: tuple[str, ...] = read("deny_from", (), networks, _NOBODY)
    service = Service(
        name=read("name", "", parse.name),
        listens=listening,
        protocols=protocols,
        interface=read("interface", None, parse.interface),
        method=read("method", "round_robin", words.method),
        affinity_s=read("affinity", 0, parse.whole_seconds, 0, 86400 * 7),
        client_prefix=read("client_prefix", WHOLE, client_prefix),
        snat=snat,
        snat_addresses=snat_addresses,
        snat_by_client=read("snat_by_client", (), read_by_client),
        snat_ports=read("snat_ports", None, snat_ports.read_ports),
        mark=read("mark", None, mark_keys.read_mark),
        idle_timeout_s=read("idle_timeout", 0, parse.whole_seconds, 0, MAX_WAIT_S),
        helper=read("helper", None, parse.choice, HELPERS),
        allow_from=collapsed(allow) if not deny else allow,
        deny_from=collapsed(deny) if not allow else deny,
        when_denied=read("when_denied", "reject", parse.choice, REFUSALS),
        max_connections_per_client=read(_MOST, 0, parse.integer, 0, MAX_CONNECTIONS),
        new_connections_per_second=read(_RATE, 0, parse.integer, 0, 10000),
        when_empty=read("when_empty", "reject", parse.choice, REFUSALS),
        log=read("log", False, parse.boolean),
        log_prefix=read("log_prefix", None, parse.log_prefix),
        health=health,
        redispatch=read("redispatch", redispatch.by_default(health, protocols, backends), parse.boolean),
        takeover=read("takeover", None, parse.boolean),
        quorum=quorum(read("min_healthy", None, read_least), read("min_healthy_again", None, read_least)),
        pins=read("pins", (), read_pins),
        backups=read("backups", "together", parse.choice, BACKUPS),
        backends=backends,
    )
    _check_quorum(given, path, reading)
    reading.done()
    return check_service(service, path)


def _check_quorum(given: Mapping[str, Any], path: str, reading: Reading) -> None:
    if "min_healthy_again" in given and "min_healthy" not in given:
        reading.add(f"{path}.min_healthy_again", "is of no use without min_healthy", _NO_LEAST)


def _protocols(value: Any, path: str) -> tuple[Protocol, ...]:
    reading = Reading()
    chosen = reading.each(words.protocol, parse.one_or_more(value, path))
    reading.done()
    if not chosen:
        raise ConfigError(path, "is empty", f"choose from {', '.join(PROTOCOLS)}")
    return tuple(protocol for protocol in PROTOCOLS if protocol in chosen)
