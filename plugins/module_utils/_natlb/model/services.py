# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declaration, read into typed values (`entities.py`).

`parse_config` is the only entry. Its result is complete (every default filled in), normalised (addresses in their
canonical spelling, times in seconds) and free of contradictions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, TypeVar

from ..errors import ConfigError
from ..packets import PROTOCOLS, Protocol
from . import keys_elsewhere, mark_keys, redispatch, snat_ports, takeover, words
from . import values as parse
from .admission import apart_or_both
from .backends import read_backends
from .conflicts import between
from .egress import egress_rule, uplink_count
from .egress import mark_mask as read_mark_mask
from .entities import MAX_CONNECTIONS, MAX_SERVICES, MAX_WAIT_S, REFUSALS, Backend, Config, Listen, Service
from .fitting import misfits
from .hash_keys import WHOLE, client_prefix
from .health import Health, health_check
from .helpers import HELPERS
from .listens import listens
from .lists import snat_choice
from .network_lists import (
    MAY_NAME_LISTS,
    NO_LISTS,
    NOTHING,
    KnownLists,
    Listed,
    NetworkLists,
    Words,
    are_known,
    read_listed,
    read_lists,
    words_of,
)
from .outbound import DEFAULT_MARK_MASK, Egress
from .pins import read_pins
from .quorum import quorum, read_least
from .reading import Reading
from .snat_keys import read_by_client
from .source_nat import Snat

T = TypeVar("T")
_MASQUERADE: tuple[Snat, tuple[str, ...]] = ("masquerade", ())


class Known(NamedTuple):
    """What is known of a list of services before it is read. `services` are those, by their places, that have been read
    before. `former` is what stood at all other places of such a list, or None where that had others, or elsewhere.
    `lists` are those of networks, where they have been read before."""

    services: Mapping[int, Service]
    former: Mapping[int, Service] | None = None
    lists: NetworkLists | None = None

    def claims(self, services: Mapping[int, Service]) -> bool:
        """Whether all of these claim what they did then, without conflicts."""
        former = self.former
        return former is not None and all(
            number in services and _claims(service) == _claims(services[number]) for number, service in former.items()
        )


def _claims(service: Service) -> Hashable:
    # What networks and `*` have in common is told apart by backends; see `sources_of_networks.py`.
    places = () if service.is_exact else tuple((item.address, item.port, item.shift) for item in service.backends)
    return service.name, service.frontends(), service.source_nat, places


def parse_config(
    services: Any, egress: Any = None, mark_mask: Any = None, known: Known | None = None, networks: Any = None
) -> Config:
    """Read `natlb_services`, `natlb_egress` and `natlb_networks`; `known` is what need not be read.
    Where these are not all of a host, `networks` may be `network_lists.UNKNOWN`.

    Raises `ConfigErrors` with all errors at once. Parts of a service, and services, are checked against each other as
    far as what that depends on could be read: nothing is said of a value that may be another one once it is right.
    """
    reading = Reading()
    lists, errors = read_lists(networks) if known is None or known.lists is None else (known.lists, [])
    reading.errors.extend(errors)
    whole, claiming = _services(services, reading, known.services if known else {}, lists)
    others, egress_errors = _egress(egress)
    reading.errors.extend(egress_errors)
    mask = reading.read(read_mark_mask, mark_mask, otherwise=None)
    if known is None or not known.claims(whole):
        reading.errors.extend(between(claiming, whole if are_known(lists) else {}))
    reading.errors.extend(takeover.errors(whole))
    reading.errors.extend(snat_ports.collisions(whole, others))
    if mask is not None and not egress_errors:
        reading.errors.extend(mark_keys.collisions(whole, others, mask))
        reading.errors.extend(uplink_count(list(others.values()), mask))
    reading.done()
    bits = DEFAULT_MARK_MASK if mask is None else mask
    return Config(tuple(whole.values()), tuple(others.values()), bits, NO_LISTS if lists is None else lists)


def _items(value: Any, path: str, reading: Reading) -> list[Any]:
    return reading.read(parse.sequence, value if value is not None else [], path, otherwise=[])


def _egress(value: Any) -> tuple[dict[int, Egress], list[ConfigError]]:
    """The rules by their places, and what is wrong with the others."""
    reading = Reading()
    found: dict[int, Egress] = {}
    for index, item in enumerate(_items(value, "egress", reading)):
        for rule in reading.each(egress_rule, [(f"egress[{index}]", item)]):
            found[index] = rule
    return found, reading.errors


def _services(
    value: Any, reading: Reading, known: Mapping[int, Service], lists: KnownLists
) -> tuple[dict[int, Service], dict[int, Service]]:
    """By their places those of which all values are right, and those of which at least it is known what they claim."""
    whole: dict[int, Service] = {}
    claiming: dict[int, Service] = {}
    unsure: Collection[str] = () if are_known(lists) else MAY_NAME_LISTS
    items = _items(value, "services", reading)
    for index, item in enumerate(items):
        if index in known:
            whole[index] = claiming[index] = known[index]
            continue
        path = f"services[{index}]"
        service, errors = _service(item, path, lists)
        unread = _unread(errors, path) if errors else set()
        if "backends" in unread and any(listen.address is None for listen in service.listens):
            # `*` is of the families that backends are of.
            unread.add("listen")
        reading.errors.extend([*errors, *misfits(service, path, unread.union(unsure))])
        if not unread:
            whole[index] = service
        if unread.isdisjoint(_CLAIMS):
            claiming[index] = service
    if len(items) > MAX_SERVICES:
        reading.add("services", f"{len(items)} services", f"at most {MAX_SERVICES}")
    return whole, claiming


def _unread(errors: Sequence[ConfigError], path: str) -> set[str]:
    """The keys of a service whose values are wrong. All of them, where one was written that there is not: nobody knows
    which was meant."""
    found = {re.split(r"[.[]", error.path[len(path) + 1 :])[0] for error in errors}
    return found if found.issubset(SERVICE_KEYS) else {*found, *SERVICE_KEYS}


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


#: What claims packets, and the name for it.
_CLAIMS = ("name", "listen", "protocol", "interface")
_MOST, _RATE = "max_connections_per_client", "new_connections_per_second"
_NO_LEAST = "add min_healthy, or leave it out"
_NOBODY = "leave it out to allow everybody, or name networks"


def _service(value: Any, path: str, lists: KnownLists) -> tuple[Service, list[ConfigError]]:
    """The service, with what is usual where a value is wrong; and what is wrong."""
    reading = Reading()
    given = reading.mapping(value, path, SERVICE_KEYS, ("name", "listen", "backends"), keys_elsewhere.SERVICES)

    def read(key: str, otherwise: T, function: Callable[..., T], *more: Any) -> T:
        if key not in given:
            return otherwise
        return reading.read(function, given[key], f"{path}.{key}", *more, otherwise=otherwise)

    snat, snat_addresses = read("snat", _MASQUERADE, snat_choice)
    health: Health | None = read("health", None, health_check)
    protocols: tuple[Protocol, ...] = read("protocol", ("tcp",), _protocols)
    listening: tuple[Listen, ...] = read("listen", (), listens)
    backends: tuple[Backend, ...] = read("backends", (), read_backends, listening)
    allowed, denied, listed = _clients(read, lists)
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
        snat_by_client=read("snat_by_client", (), read_by_client, lists),
        snat_ports=read("snat_ports", None, snat_ports.read_ports),
        mark=read("mark", None, mark_keys.read_mark),
        idle_timeout_s=read("idle_timeout", 0, parse.whole_seconds, 0, MAX_WAIT_S),
        helper=read("helper", None, parse.choice, HELPERS),
        allow_from=allowed,
        deny_from=denied,
        words=listed,
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
        pins=read("pins", (), read_pins, lists),
        backups=read("backups", "together", words.backups),
        backends=backends,
    )
    _check_quorum(given, path, reading)
    return service, reading.errors


def _clients(read: Callable[..., Listed], lists: KnownLists) -> tuple[tuple[str, ...], tuple[str, ...], Words]:
    allow, deny = (read(key, NOTHING, read_listed, _NOBODY, lists) for key in Words._fields)
    return (*apart_or_both(allow.networks, deny.networks), words_of(allow.words, deny.words))


def _check_quorum(given: Mapping[str, Any], path: str, reading: Reading) -> None:
    lacks = "min_healthy" not in given and "min_healthy" not in _unread(reading.errors, path)
    if "min_healthy_again" in given and lacks:
        reading.add(f"{path}.min_healthy_again", "is of no use without min_healthy", _NO_LEAST)


def _protocols(value: Any, path: str) -> tuple[Protocol, ...]:
    reading = Reading()
    chosen = reading.each(words.protocol, parse.one_or_more(value, path))
    reading.done()
    if not chosen:
        raise ConfigError(path, "is empty", f"choose from {', '.join(PROTOCOLS)}")
    return tuple(protocol for protocol in PROTOCOLS if protocol in chosen)
