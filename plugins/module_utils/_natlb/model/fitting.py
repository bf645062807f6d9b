# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the parts of one service fit together. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Callable

from ..errors import ConfigError
from ..packets import family_name, family_of
from . import mark_keys, snat_keys, takeover
from . import values as parse
from .entities import Service
from .hash_keys import WHOLE
from .helpers import PROTOCOLS_OF
from .pins import MAX_PINS
from .quorum import Quorum
from .reading import Reading
from .spelling import is_everything

#: Backends that an error names.
_NAMED = 8


def misfits(service: Service, path: str, unread: Collection[str] = ()) -> list[ConfigError]:
    """What does not fit together in one service. Nothing is said where a key has a part that is `unread`, as its value
    was wrong."""
    reading = Reading()
    for check, keys in _CHECKS:
        if not (unread and any(key in unread for key in keys)):
            check(service, path, reading)
    return reading.errors


def _check_redispatch(service: Service, path: str, reading: Reading) -> None:
    if service.redispatch and "tcp" not in service.protocols:
        problem = f"there is none for {' and '.join(service.protocols)}"
        reading.add(f"{path}.redispatch", problem, "leave it out: only TCP clients repeat a refused attempt")


def _check_idle_timeout(service: Service, path: str, reading: Reading) -> None:
    if service.idle_timeout_s and "sctp" in service.protocols:
        remedy = "make a service of its own of it, and set natlb_conntrack, which is for the whole host"
        reading.add(f"{path}.idle_timeout", "there is none for sctp, whose states nft has no words for", remedy)


def _check_helper(service: Service, path: str, reading: Reading) -> None:
    read = PROTOCOLS_OF[service.helper] if service.helper else service.protocols
    others = [protocol for protocol in service.protocols if protocol not in read]
    if others:
        problem = f"{service.helper} is not spoken over {' and '.join(others)}"
        reading.add(f"{path}.helper", problem, f"declare protocol: {','.join(read)}, and other services for the others")


def _check_takeover(service: Service, path: str, reading: Reading) -> None:
    kept = takeover.obstacle(service) if service.takeover else None
    if kept is not None:
        reading.add(f"{path}.takeover", kept.problem, kept.remedy)


def _check_log(service: Service, path: str, reading: Reading) -> None:
    if service.log_prefix is not None and not service.log:
        reading.add(f"{path}.log_prefix", "nothing is logged", "add log: true, or leave it out")


def _check_families(service: Service, path: str, reading: Reading) -> None:
    families = {backend.family for backend in service.backends}
    for family in service.families():
        if service.backends and family not in families:
            problem = f"listens in {family_name(family)}, but no backend has such an address"
            reading.add(f"{path}.listen", problem, "backends must be of the family of the frontend")


def _check_snat(service: Service, path: str, reading: Reading) -> None:
    for family in service.families() if service.snat == "address" else ():
        if not service.source_nat.usual.of(family):
            reading.add(f"{path}.snat", f"names no {family_name(family)} address", "the service listens in it")
    _check_strange(service.snat_addresses, service, f"{path}.snat", reading)


def _check_snat_ports(service: Service, path: str, reading: Reading) -> None:
    if service.snat_ports and all(snat.kind == "none" for snat in service.source_nat.answers):
        reading.add(f"{path}.snat_ports", "no source is translated (snat: none)", "leave it out, or change snat")


def _check_same_address(service: Service, path: str, reading: Reading) -> None:
    ports = [(listen.low, listen.high) for listen in service.listens]
    snat_keys.check_backends(service.backends, f"{path}.backends", reading)
    mark_keys.check_backends(service.backends, ports, f"{path}.backends", reading)


def _check_by_client(service: Service, path: str, reading: Reading) -> None:
    if service.snat_by_client:
        snat_keys.check_by_client(service.snat_by_client, service.families(), f"{path}.snat_by_client", reading)


def _check_allow(service: Service, path: str, reading: Reading) -> None:
    remedy = "nobody could connect; add networks of the service's family"
    _check_of_no_use(service.allow_from, service, f"{path}.allow_from", remedy, reading)


def _check_deny(service: Service, path: str, reading: Reading) -> None:
    remedy = "nobody is denied by it; add networks of the service's family, or leave deny_from out"
    _check_of_no_use(service.deny_from, service, f"{path}.deny_from", remedy, reading)


def _check_of_no_use(networks: Sequence[str], service: Service, path: str, remedy: str, reading: Reading) -> None:
    """Whether none of these networks is of a family of the service. A list that many services share may have more."""
    families = service.families() if networks else ()
    if networks and not any(family_of(network) in families for network in networks):
        reading.add(path, f"{_shown(networks)} is of a family that the service does not listen in", remedy)


def _shown(values: Sequence[str]) -> str:
    return parse.shown(", ".join(values)).replace("'", "")


def _check_strange(values: Sequence[str], service: Service, path: str, reading: Reading) -> None:
    families = service.families() if values else ()
    strange = [value for value in values if family_of(value) not in families]
    if strange:
        reading.add(path, f"{_shown(strange)} is of a family that the service does not listen in", "drop it")


def _check_backends(service: Service, path: str, reading: Reading) -> None:
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


def _check_prefix(service: Service, path: str, reading: Reading) -> None:
    if service.client_prefix != WHOLE and not service.affinity_s and service.method != "source_hash":
        remedy = "add affinity, or take method: source_hash; limits are for each address"
        reading.add(f"{path}.client_prefix", "is of no use to this service", remedy)


def _check_admission(service: Service, path: str, reading: Reading) -> None:
    allowed = set(service.allow_from) if service.deny_from else set()
    both = [network for network in service.deny_from if network in allowed]
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


def _check_quorum(service: Service, path: str, reading: Reading) -> None:
    quorum = service.quorum
    if quorum is None:
        return
    if service.health is None:
        problem = "nothing finds out how many backends are healthy"
        reading.add(f"{path}.min_healthy", problem, "add health, or leave it out")
    counted = {family: len(service.counted(family)) for family in service.families()}
    counts = {family_name(family): count for family, count in counted.items() if count}
    if not counts:
        reading.add(f"{path}.min_healthy", "the service has no backend that is no backup", "add some, or leave it out")
    # One, since the others may be right once it is; and of the family that allows the least.
    for key, problem, remedy in islice(_misfits_of_quorum(quorum, sorted(counts.items(), key=lambda item: item[1])), 1):
        reading.add(f"{path}.{key}", problem, remedy)


def _misfits_of_quorum(quorum: Quorum, counts: Sequence[tuple[str, int]]) -> Iterator[tuple[str, str, str]]:
    """Key, problem and remedy of numbers that do not fit so many backends of each family."""
    tail = "; a percentage fits both families" if len(counts) > 1 else ""
    for key, least in (("min_healthy", quorum.least), ("min_healthy_again", quorum.again)):
        for family, count in counts:
            if least.of(count) > count:
                problem = f"{least.of(count)} are more than the service has: {_counted(family, count)}"
                yield key, problem, f"at most {count}{tail}"
    for family, count in counts:
        needed, again = quorum.least.of(count), quorum.again.of(count)
        if again < needed:
            problem = f"{again} are fewer than min_healthy, {needed} of {_counted(family, count)}"
            yield "min_healthy_again", problem, f"at least {needed}, or leave it out"


def _counted(title: str, count: int) -> str:
    return f"{count} {title} backend{'' if count == 1 else 's'}, without backups and those of weight 0"


def _check_priorities(service: Service, path: str, reading: Reading) -> None:
    for index, backend in enumerate(service.backends):
        at = f"{path}.backends[{index}].priority"
        if backend.priority and not backend.backup:
            reading.add(at, f"{backend.name} is no backup", "add backup: true, or leave it out")
        elif backend.priority and service.backups == "together":
            reading.add(at, "all backups serve together", "add backups: one_for_one or first to the service")
    backups = [(index, backend) for index, backend in enumerate(service.backends) if backend.backup]
    without = [f"{path}.backends[{index}].priority" for index, backend in backups if not backend.priority]
    if service.backends and not backups and service.backups != "together":
        remedy = "add backup: true to those that are to wait, or leave it out"
        reading.add(f"{path}.backups", f"{service.backups}, but the service has no backup", remedy)
    if 0 < len(without) < len(backups):
        reading.add(
            without[0], "is missing, and other backups have one", "give all backups of the service one, or none"
        )


def _check_pins(service: Service, path: str, reading: Reading) -> None:
    named = {backend.name: backend for backend in service.backends}
    places: dict[str, str] = {}
    for index, pin in enumerate(service.pins):
        backend = named.get(pin.backend)
        at = f"{path}.pins[{index}]"
        if backend is None:
            some = ", ".join([*islice(named, _NAMED), *(["…"] if len(named) > _NAMED else [])])
            remedy = f"choose from {some}" if named else "the service has no backend"
            reading.add(f"{at}.backend", f"{parse.shown(pin.backend)} is no backend of the service", remedy)
            continue
        here = pin.of(backend.family)
        if not here:
            problem = f"{pin.client} is not of the family of {pin.backend} ({backend.address})"
            reading.add(f"{at}.client", problem, "pin it to a backend of its own family")
        twice = next(((network, places[network]) for network in here if network in places), None)
        if twice is not None:
            reading.add(f"{at}.client", "{} stands at {} already".format(*twice), "pin it once")
        places.update((network, at) for network in here if network not in places)
    if len(places) > MAX_PINS:
        problem = f"{len(places)} networks, those of lists among them"
        reading.add(f"{path}.pins", problem, f"at most {MAX_PINS} in one service")


#: Each check, and the keys that it reads.
_CHECKS: tuple[tuple[Callable[[Service, str, Reading], None], tuple[str, ...]], ...] = (
    (_check_redispatch, ("protocol", "redispatch")),
    (_check_idle_timeout, ("protocol", "idle_timeout")),
    (_check_helper, ("protocol", "helper")),
    (
        _check_takeover,
        ("takeover", "listen", "protocol", "interface", "snat", "snat_by_client", "method", "affinity", "backends"),
    ),
    (_check_log, ("log", "log_prefix")),
    (_check_backends, ("listen", "backends")),
    (_check_health, ("listen", "health", "backends")),
    (_check_quorum, ("listen", "health", "min_healthy", "min_healthy_again", "backends")),
    (_check_pins, ("pins", "backends")),
    (_check_priorities, ("backups", "backends")),
    (_check_families, ("listen", "backends")),
    (_check_snat, ("listen", "snat")),
    (_check_prefix, ("client_prefix", "affinity", "method")),
    (_check_admission, ("listen", "allow_from", "deny_from")),
    (_check_snat_ports, ("snat", "snat_by_client", "snat_ports", "backends")),
    (_check_same_address, ("listen", "backends")),
    (_check_by_client, ("listen", "snat_by_client")),
    (_check_allow, ("listen", "allow_from")),
    (_check_deny, ("listen", "deny_from")),
)
