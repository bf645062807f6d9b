# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user declares, as typed values.

`parse_config` is the only way in. What it returns is complete (every default filled in), normalised
(addresses in their canonical spelling, times in seconds) and free of contradictions, so that the engines can
render it without asking again.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from . import parse
from .errors import ConfigError, ConfigErrors

PROTOCOLS = ("tcp", "udp", "sctp")
METHODS = ("round_robin", "random", "source_hash", "flow_hash")
STATES = ("active", "drained", "disabled")
FAMILIES = ("ip", "ip6")

MAX_SERVICES = 65536
MAX_BACKENDS = 4096
MAX_WEIGHT = 256
MAX_UPLINK_WEIGHT_SUM = 1024
#: Connection mark bits that outbound balancing over uplinks uses unless told otherwise. Kubernetes takes bits 14 and
#: 15, Tailscale 16 to 23, Docker none: 24 to 29 are seldom taken, and hold 63 uplinks.
DEFAULT_MARK_MASK = 0x3F000000


def family_of(address: str) -> str:
    """`ip` or `ip6`, of an address or a network in its canonical spelling."""
    return "ip6" if ":" in address else "ip"


@dataclass(frozen=True)
class Listen:
    """One `listen` entry. `address` is None for `*`; `low` to `high` are its ports, both included."""

    address: Optional[str]
    low: int
    high: int

    def __str__(self) -> str:
        host = "*" if self.address is None else f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{ports_text(self.low, self.high)}"


@dataclass(frozen=True)
class Frontend:
    """What the kernel tells services apart by; no two services may share one."""

    family: str
    protocol: str
    address: Optional[str]
    low: int
    high: int
    interface: Optional[str]

    @property
    def exact(self) -> bool:
        """One address, one port, any interface: the case that is a single hash look-up."""
        return self.address is not None and self.low == self.high and self.interface is None

    def __str__(self) -> str:
        where = f" on {self.interface}" if self.interface else ""
        return f"{self.protocol} {Listen(self.address, self.low, self.high)}{where}"


@dataclass(frozen=True)
class Backend:
    """`port` is None where connections keep the port that the client asked for."""

    address: str
    port: Optional[int]
    name: str
    weight: int
    state: str
    backup: bool

    @property
    def family(self) -> str:
        return family_of(self.address)

    @property
    def key(self) -> str:
        """Its identity within the service: address and port, never its name."""
        return f"{self.address} {self.port or ''}".rstrip()


@dataclass(frozen=True)
class Health:
    """How a health checker is to ask. Times in seconds; `argv` only for `command`, the HTTP fields only for `http`."""

    type: str
    port: Optional[int] = None
    interval_s: float = 2.0
    timeout_s: float = 1.0
    fall: int = 3
    rise: int = 2
    path: str = "/"
    host: Optional[str] = None
    status: Tuple[int, ...] = (200,)
    argv: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Service:
    """One service. `snat` is `masquerade`, `none` or `address`; `snat_addresses` belongs to the last."""

    name: str
    listens: Tuple[Listen, ...]
    protocols: Tuple[str, ...]
    interface: Optional[str]
    method: str
    affinity_s: int
    snat: str
    snat_addresses: Tuple[str, ...]
    allow_from: Tuple[str, ...]
    max_connections_per_client: int
    new_connections_per_second: int
    when_empty: str
    log: bool
    health: Optional[Health]
    backends: Tuple[Backend, ...]

    def families(self) -> Tuple[str, ...]:
        """The families that the service listens in. `*` means those of its backends (both while it has none)."""
        found = {family_of(listen.address) for listen in self.listens if listen.address is not None}
        if any(listen.address is None for listen in self.listens):
            found.update({backend.family for backend in self.backends} or FAMILIES)
        return tuple(family for family in FAMILIES if family in found)

    def frontends(self) -> Iterator[Frontend]:
        for listen in self.listens:
            families = self.families() if listen.address is None else (family_of(listen.address),)
            for family in families:
                for protocol in self.protocols:
                    yield Frontend(family, protocol, listen.address, listen.low, listen.high, self.interface)

    def serving(self, family: str) -> List[Backend]:
        """The backends of a family that get new connections now; the backups where no other can."""
        able = [b for b in self.backends if b.family == family and b.state == "active" and b.weight > 0]
        return [b for b in able if not b.backup] or able

    def snat_of(self, family: str) -> Tuple[str, ...]:
        return tuple(address for address in self.snat_addresses if family_of(address) == family)

    def seed(self) -> int:
        """32 bits from the name alone: the same on every balancer and after every boot."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Uplink:
    interface: str
    gateway: str
    weight: int


@dataclass(frozen=True)
class Egress:
    """Source NAT for networks behind the balancer. `snat` is `masquerade` or `address`."""

    sources: Tuple[str, ...]
    out_interface: Optional[str]
    protocol: Optional[str]
    ports: Tuple[Tuple[int, int], ...]
    snat: str
    snat_address: Optional[str]
    uplinks: Tuple[Uplink, ...]

    def families(self) -> Tuple[str, ...]:
        found = {family_of(source) for source in self.sources}
        return tuple(family for family in FAMILIES if family in found)

    def sources_of(self, family: str) -> Tuple[str, ...]:
        return tuple(source for source in self.sources if family_of(source) == family)


@dataclass(frozen=True)
class Config:
    """Everything that one balancer is to do."""

    services: Tuple[Service, ...]
    egress: Tuple[Egress, ...]
    mark_mask: int = DEFAULT_MARK_MASK

    def families(self) -> Tuple[str, ...]:
        """The families whose packets this host has to forward."""
        found = {family for service in self.services for family in service.families()}
        found.update(family for item in self.egress for family in item.families())
        return tuple(family for family in FAMILIES if family in found)

    def uplinks(self) -> List[Uplink]:
        """Every distinct way out, in a fixed order; its position + 1 is its value in the connection mark."""
        distinct = {(u.interface, u.gateway) for item in self.egress for u in item.uplinks}
        return [Uplink(interface, gateway, 1) for interface, gateway in sorted(distinct)]

    @property
    def empty(self) -> bool:
        return not self.services and not self.egress


EMPTY = Config((), ())


def dump(config: Config) -> Dict[str, Any]:
    """The configuration as a user could have typed it, with every default: `parse_config(**dump(c))` is `c` again."""
    return {
        "services": [_dump_service(service) for service in config.services],
        "egress": [_dump_egress(item) for item in config.egress],
        "mark_mask": config.mark_mask,
    }


def _dump_service(service: Service) -> Dict[str, Any]:
    return {
        "name": service.name,
        "listen": [str(listen) for listen in service.listens],
        "protocol": list(service.protocols),
        "interface": service.interface,
        "method": service.method,
        "affinity": service.affinity_s,
        "snat": list(service.snat_addresses) if service.snat == "address" else service.snat,
        "allow_from": list(service.allow_from),
        "max_connections_per_client": service.max_connections_per_client,
        "new_connections_per_second": service.new_connections_per_second,
        "when_empty": service.when_empty,
        "log": service.log,
        "health": None if service.health is None else _dump_health(service.health),
        "backends": [
            {
                "address": backend.address,
                "port": backend.port,
                "name": backend.name,
                "weight": backend.weight,
                "state": backend.state,
                "backup": backend.backup,
            }
            for backend in service.backends
        ],
    }


def _dump_health(health: Health) -> Dict[str, Any]:
    values = {
        "port": health.port,
        "path": health.path,
        "host": health.host,
        "status": list(health.status),
        "argv": list(health.argv),
    }
    found: Dict[str, Any] = {key: values[key] for key in _HEALTH_KEYS[health.type]}
    found.update(type=health.type, interval=health.interval_s, timeout=health.timeout_s)
    found.update(fall=health.fall, rise=health.rise)
    return found


def _dump_egress(egress: Egress) -> Dict[str, Any]:
    return {
        "source": list(egress.sources),
        "out_interface": egress.out_interface,
        "protocol": egress.protocol,
        "destination_ports": [ports_text(low, high) for low, high in egress.ports],
        "snat": egress.snat_address or egress.snat,
        "uplinks": [
            {"interface": uplink.interface, "gateway": uplink.gateway, "weight": uplink.weight}
            for uplink in egress.uplinks
        ],
    }


def ports_text(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


def parse_config(services: Any, egress: Any = None, mark_mask: Any = None) -> Config:
    """Read `natlb_services` and `natlb_egress`.

    Raises `ConfigErrors` with every problem that was found: those within the services and egress rules first, and only
    where there are none, those between them.
    """
    errors: List[ConfigError] = []
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


def _each(value: Any, path: str, read: Callable[[Any, str], Any], errors: List[ConfigError]) -> List[Any]:
    found: List[Any] = []
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


def _distinct(items: Sequence[Any]) -> List[Any]:
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


def _protocols(value: Any, path: str) -> Tuple[str, ...]:
    chosen = [parse.choice(item, at, PROTOCOLS) for at, item in parse.one_or_more(value, path)]
    if not chosen:
        raise ConfigError(path, "is empty", f"choose from {', '.join(PROTOCOLS)}")
    return tuple(protocol for protocol in PROTOCOLS if protocol in chosen)


def _snat(value: Any, path: str) -> Tuple[str, Tuple[str, ...]]:
    if value in ("masquerade", "none"):
        return str(value), ()
    addresses = _distinct([str(parse.host_address(item, at)) for at, item in parse.one_or_more(value, path)])
    if not addresses:
        raise ConfigError(path, "is empty", "write masquerade, none, or one or several addresses")
    return "address", tuple(addresses)


def _networks(value: Any, path: str) -> Tuple[str, ...]:
    """Networks in their shortest equal form, so that no two of them overlap."""
    networks = [parse.network(item, at) for at, item in parse.one_or_more(value, path)]
    v4 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network))
    return tuple(str(network) for network in [*v4, *v6])


_HEALTH_KEYS: Dict[str, Tuple[str, ...]] = {
    "none": (),
    "tcp": ("port",),
    "http": ("port", "path", "host", "status"),
    "command": ("argv",),
}


def _health(value: Any, path: str) -> Optional[Health]:
    if value is None or value == "none":
        return None
    common = ("type", "interval", "timeout", "fall", "rise")
    every = common + ("port", "path", "host", "status", "argv")
    given = parse.mapping(value, path, every, required=("type",))
    kind = parse.choice(given["type"], f"{path}.type", tuple(_HEALTH_KEYS))
    parse.mapping(given, path, common + _HEALTH_KEYS[kind])
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


def _backends(value: Any, path: str) -> Tuple[Backend, ...]:
    items = parse.sequence(value, path)
    if len(items) > MAX_BACKENDS:
        raise ConfigError(path, f"{len(items)} backends", f"at most {MAX_BACKENDS} in one service")
    backends = [_backend(item, f"{path}[{index}]") for index, item in enumerate(items)]
    names: Dict[str, int] = {}
    keys: Dict[str, int] = {}
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
        if any(listen.address == backend.address for listen in service.listens):
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
    for address in service.snat_addresses:
        if family_of(address) not in families:
            raise ConfigError(
                f"{path}.snat", f"{address} is of a family that the service does not listen in", "drop it"
            )
    for network in service.allow_from:
        if family_of(network) not in families:
            raise ConfigError(
                f"{path}.allow_from", f"{network} is of a family that the service does not listen in", "drop it"
            )


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


def _merged(ranges: Sequence[Tuple[int, int]]) -> Tuple[Tuple[int, int], ...]:
    """Port ranges sorted, with overlapping and adjoining ones made one."""
    merged: List[Tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _uplinks(value: Any, path: str) -> Tuple[Uplink, ...]:
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


def mark_value(mask: int, index: int) -> int:
    """The mark of the uplink at `index` (from 0) within `mask`; 0 means none was chosen yet."""
    return (index + 1) * (mask & -mask)


def _uplink_count(egress: Sequence[Egress], mask: int) -> List[ConfigError]:
    count = len(Config((), tuple(egress), mask).uplinks())
    room = mask // (mask & -mask)
    if count <= room:
        return []
    return [
        ConfigError("egress", f"{count} uplinks do not fit into the mark mask {mask:#x}", f"it has room for {room}")
    ]


def _between(services: Sequence[Service]) -> List[ConfigError]:
    """What is wrong between services: two of one name, or two that claim the same packets."""
    errors: List[ConfigError] = []
    names: Dict[str, int] = {}
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
    for (first, one), (second, two) in _overlaps(claims):
        low, high = sorted((one, two))
        if (low, high) not in seen:
            seen.add((low, high))
            errors.append(_overlap_error(services, (low, high), first, second))
    return errors


def _overlap_error(
    services: Sequence[Service], pair: Tuple[int, int], first: Frontend, second: Frontend
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


Claim = Tuple[Frontend, int]


def _overlaps(claims: Sequence[Claim]) -> Iterator[Tuple[Claim, Claim]]:
    """Pairs of claims that one packet could match.

    Grouped by address and swept over sorted ports, so ten thousand services cost no more than their sorting. `*` takes
    part in the group of every address.
    """
    groups: Dict[Tuple[str, str, Optional[str]], List[Claim]] = {}
    for claim in claims:
        frontend = claim[0]
        groups.setdefault((frontend.family, frontend.protocol, frontend.address), []).append(claim)
    for (family, protocol, address), group in groups.items():
        wild = groups.get((family, protocol, None), []) if address is not None else []
        group_set = {id(claim) for claim in group}
        active: List[Claim] = []
        for claim in sorted(group + wild, key=lambda item: (item[0].low, item[0].high, item[1])):
            active = [other for other in active if other[0].high >= claim[0].low]
            for other in active:
                # A pair of two wildcards is found in the wildcards' own group.
                if (id(claim) in group_set or id(other) in group_set) and _interfaces_meet(claim[0], other[0]):
                    yield other, claim
            active.append(claim)


def _interfaces_meet(one: Frontend, two: Frontend) -> bool:
    return one.interface is None or two.interface is None or one.interface == two.interface


@lru_cache(maxsize=None)
def protocol_number(protocol: str) -> int:
    """IANA's number of a transport protocol."""
    return {"tcp": 6, "udp": 17, "sctp": 132}[protocol]
