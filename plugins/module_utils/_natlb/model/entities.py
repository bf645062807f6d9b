# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a balancer is to do, as typed values: complete, normalised and free of contradictions.

`services.py` makes them from what a user typed; the engines render them without asking again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, get_args

from ..packets import FAMILIES, Family, Protocol, family_of, in_order
from .admission import Admission, admission
from .backups import Backups, joining
from .computed import computed
from .dumps import dump_service
from .hash_keys import ClientPrefix, HashKey, hash_key
from .health import Health
from .helpers import Helper
from .marks import Mark
from .network_lists import NO_LISTS, NetworkLists, Words
from .outbound import DEFAULT_MARK_MASK, Egress, Uplink, dump_egress
from .pins import Pin, pinned_networks
from .quorum import Quorum
from .ranges import Range
from .source_nat import ClientSnat, Snat, SourceNat, Translation, translation
from .spelling import is_network, ports_text

Method = Literal["round_robin", "random", "source_hash", "flow_hash", "destination_hash", "least_connections"]
State = Literal["active", "drained", "disabled"]
#: What who is not served gets.
Refusal = Literal["reject", "drop"]
METHODS: tuple[Method, ...] = get_args(Method)
STATES: tuple[State, ...] = ("active", "drained", "disabled")
REFUSALS: tuple[Refusal, ...] = ("reject", "drop")

MAX_SERVICES = 65536
MAX_BACKENDS = 4096
MAX_WEIGHT = 256
MAX_PRIORITY = 255
#: What a limit of connections may be, of a client or of a backend.
MAX_CONNECTIONS = 1000000
#: For the connections of a backend to end.
MAX_WAIT_S = 7 * 24 * 3600


@dataclass(frozen=True)
class Listen:
    """One `listen` entry: `address`, None for `*`, or a network, and the ports from `low` to `high`, both included."""

    address: str | None
    low: int
    high: int

    def __str__(self) -> str:
        host = "*" if self.address is None else f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{ports_text(self.low, self.high)}"


@dataclass(frozen=True)
class Frontend:
    """What the kernel tells services apart by; no two services may share one. Some overlap: see `precedence.py`."""

    family: Family
    protocol: Protocol
    address: str | None
    low: int
    high: int
    interface: str | None

    @property
    def spans(self) -> bool:
        """Whether it is a range of ports."""
        return self.low != self.high

    @property
    def is_network(self) -> bool:
        """Whether it has the addresses of a network."""
        return is_network(self.address)

    @property
    def prefix_length(self) -> int:
        """Of a network."""
        return int((self.address or "").rpartition("/")[2])

    @property
    def exact(self) -> bool:
        """One address, one port, any interface: the case that is a single hash look-up."""
        return self.address is not None and not self.spans and self.interface is None and "/" not in self.address

    def __str__(self) -> str:
        where = f" on {self.interface}" if self.interface else ""
        return f"{self.protocol} {Listen(self.address, self.low, self.high)}{where}"


@dataclass(frozen=True)
class Backend:
    """`port` is None where connections keep the port that the client asked for, or one that is `shift` from it."""

    address: str
    port: int | None
    name: str
    weight: int
    state: State
    backup: bool
    #: Connections that it has at a time within its service; 0 is no limit.
    max_connections: int = 0
    #: The part of its weight that it gets for now: by health, where it has just come back or asks for less, and by the
    #: number of its connections (`least_connections.py`), where it may be more than all of it.
    share: float = 1.0
    shift: int = 0
    #: Whether it gets no new connections since the service is below its quorum (`quorum.py`), for all that it is well.
    held: bool = False
    #: What it sees of clients, where that is not what the others see; for all backends at its address.
    snat: SourceNat | None = None
    #: Of packets to it, beside that of the service; see `marks.py`.
    mark: Mark | None = None
    #: Of a backup: those of one priority join together; 0 is none, see `backups.py`.
    priority: int = 0

    @computed
    def family(self) -> Family:
        return family_of(self.address)

    def is_at(self, listen: Listen) -> bool:
        """Whether connections to it would come back as ones to the frontend."""
        low, high = self.ports_at(listen.low, listen.high)
        return listen.address == self.address and low <= listen.high and listen.low <= high

    def port_at(self, asked: int) -> int:
        """Where a connection to this port of the service goes."""
        return self.port or asked + self.shift

    def ports_at(self, low: int, high: int) -> Range:
        """Where connections to these ports go."""
        return self.port_at(low), self.port_at(high)

    @property
    def given_port(self) -> int | str | None:
        """As it is declared."""
        return f"{self.shift:+}" if self.shift else self.port

    @computed
    def key(self) -> str:
        """Its identity within the service: address and port, never its name."""
        return f"{self.address} {self.port or ''}".rstrip()


@dataclass(frozen=True)
class Service:
    """One service. `snat` is `masquerade`, `none` or `address`; `snat_addresses` belongs to the last. See `source_nat`,
    which knows of exceptions as well."""

    name: str
    listens: tuple[Listen, ...]
    protocols: tuple[Protocol, ...]
    interface: str | None
    method: Method
    affinity_s: int
    #: Which clients are one to affinity and `source_hash`.
    client_prefix: ClientPrefix
    snat: Snat
    snat_addresses: tuple[str, ...]
    snat_by_client: tuple[ClientSnat, ...]
    snat_ports: Range | None
    mark: Mark | None
    #: After how many seconds a connection without packets is forgotten; 0 leaves it to the host.
    idle_timeout_s: int
    #: What reads its packets; see `helpers.py`.
    helper: Helper | None
    allow_from: tuple[str, ...]
    deny_from: tuple[str, ...]
    words: Words
    when_denied: Refusal
    max_connections_per_client: int
    new_connections_per_second: int
    when_empty: Refusal
    log: bool
    #: None for the usual one.
    log_prefix: str | None
    health: Health | None
    #: Whether an attempt that is refused takes another backend; see `redispatch.py`.
    redispatch: bool
    #: Whether connections that another balancer has established go on here; None is where that is safe. See
    #: `takeover.py`.
    takeover: bool | None
    #: How many backends have to be healthy; None where one is enough.
    quorum: Quorum | None
    pins: tuple[Pin, ...]
    #: Which backups serve, and when; see `backups.py`.
    backups: Backups
    backends: tuple[Backend, ...]

    @computed
    def _families(self) -> tuple[Family, ...]:
        found: set[Family] = set()
        for listen in self.listens:
            if listen.address is not None:
                found.add(family_of(listen.address))
            else:
                found.update({backend.family for backend in self.backends} or FAMILIES)
        return in_order(found)

    @computed
    def _frontends(self) -> tuple[Frontend, ...]:
        return tuple(
            Frontend(family, protocol, listen.address, listen.low, listen.high, self.interface)
            for listen in self.listens
            for family in (self._families if listen.address is None else (family_of(listen.address),))
            for protocol in self.protocols
        )

    @computed
    def is_exact(self) -> bool:
        """Whether all its frontends are (`Frontend.exact`)."""
        return all(frontend.exact for frontend in self._frontends)

    @computed
    def limits_backends(self) -> bool:
        """Whether a backend, also one that does not serve now, has a limit of connections."""
        return any(backend.max_connections for backend in self.backends)

    @computed
    def is_marked(self) -> bool:
        """Whether some of its packets get a mark."""
        return self.mark is not None or any(backend.mark is not None for backend in self.backends)

    def mark_to(self, backend: Backend) -> Mark | None:
        """The mark of packets to one of its backends."""
        return backend.mark.over(self.mark) if backend.mark else self.mark

    @property
    def takes_turns(self) -> bool:
        """Whether the kernel goes from slot to slot. Least connections are levelled by who deals the slots."""
        return self.method in ("round_robin", "least_connections")

    def hash_key(self, family: Family) -> HashKey | None:
        """What of a first packet picks its slot; None where it is no hash."""
        return hash_key(self.method, self.client_prefix, family)

    def families(self) -> tuple[Family, ...]:
        """The families that the service listens in. `*` means those of its backends (both while it has none)."""
        return self._families

    def frontends(self) -> tuple[Frontend, ...]:
        """Each family, protocol, address and port that it listens on."""
        return self._frontends

    @computed
    def listen_port(self) -> int | None:
        """The one port that it listens on; None where there are several."""
        ports = {port for listen in self.listens for port in (listen.low, listen.high)}
        return ports.pop() if len(ports) == 1 else None

    @computed
    def listen_range(self) -> Range:
        """From the lowest port that it listens on to the highest."""
        return min(listen.low for listen in self.listens), max(listen.high for listen in self.listens)

    def serving(self, family: Family) -> list[Backend]:
        """The backends of a family that get new connections now, the backups whose turn it is among them."""
        able = self.able(family)
        mine = [b for b in able if not b.backup]
        if len(mine) == len(able):
            return able
        backups = [b for b in self.backends if b.family == family and b.backup]
        out = sum(b.family == family for b in self.backends) - len(backups) - len(mine)
        # By what it is, not by what it is like: that would compare each with all.
        ids = set(map(id, able))
        return [*mine, *joining(self.backups, backups, len(mine), out, lambda b: id(b) in ids, lambda b: b.priority)]

    def pinned(self, family: Family) -> list[tuple[str, Backend]]:
        """Networks of clients that do not overlap, each with its backend, which may not serve."""
        named = {backend.name: backend for backend in self.backends} if self.pins else {}
        return [(network, named[name]) for network, name in pinned_networks(self.pins_to(family), family)]

    def pins_to(self, family: Family) -> tuple[Pin, ...]:
        """The pins to backends of a family. Their lists may have networks of the other one."""
        mine = {backend.name for backend in self.backends if backend.family == family} if self.pins else set()
        return tuple(pin for pin in self.pins if pin.backend in mine)

    def backends_at(self, place: tuple[str, int], asked: int) -> Iterator[Backend]:
        """The backends that have this address and port for connections to the port that was asked for."""
        address, port = place
        return (item for item in self.backends if item.address == address and item.port_at(asked) == port)

    def stand_ins(self, family: Family) -> list[Backend]:
        """The other backups of a family, which get connections once every backend that serves is full, if they can
        be."""
        serving = self.serving(family)
        if not all(backend.max_connections for backend in serving):
            return []
        mine = {backend.key for backend in serving}
        return [backend for backend in self.able(family) if backend.key not in mine]

    def able(self, family: Family) -> list[Backend]:
        """The backends of a family that may get new connections, now or once others are full or out."""
        return [b for b in self.backends if b.family == family and b.state == "active" and b.weight > 0 and not b.held]

    def counted(self, family: Family) -> list[Backend]:
        """The backends of a family that its quorum is of, in whatever state they are."""
        return [b for b in self.backends if b.family == family and b.weight > 0 and not b.backup]

    @computed
    def _admissions(self) -> dict[str, Admission | None]:
        return {family: admission(self.allow_from, self.deny_from, family) for family in FAMILIES}

    def admission(self, family: Family) -> Admission | None:
        """The clients of a family that may connect; None where all may."""
        return self._admissions[family] if self.allow_from or self.deny_from else None

    def admits(self, client: str) -> bool:
        """Whether a client at this address may connect."""
        found = self.admission(family_of(client))
        return found is None or found.admits(client)

    @computed
    def source_nat(self) -> Translation:
        """What backends see instead of the client's address."""
        own = tuple([(backend.address, backend.snat) for backend in self.backends if backend.snat])
        return translation(self.snat, self.snat_addresses, self.snat_by_client, own, self.snat_ports)

    @computed
    def line(self) -> str:
        """It as JSON on one line."""
        return json.dumps(dump_service(self))

    def seed(self) -> int:
        """32 bits from the name alone: the same on every balancer and after every boot."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Config:
    """Everything that one balancer is to do."""

    services: tuple[Service, ...]
    egress: tuple[Egress, ...]
    mark_mask: int = DEFAULT_MARK_MASK
    networks: NetworkLists = field(default_factory=lambda: NO_LISTS, hash=False)

    @computed
    def _families(self) -> tuple[Family, ...]:
        found: set[Family] = set()
        for service in self.services:
            found.update(service.families())
        for item in self.egress:
            found.update(item.families())
        return in_order(found)

    def families(self) -> tuple[Family, ...]:
        """The families whose packets this host has to forward."""
        return self._families

    def uplinks(self) -> list[Uplink]:
        """Every distinct way out, in a fixed order; its position + 1 is its value in the connection mark."""
        distinct = {uplink.key: uplink for item in self.egress for uplink in item.uplinks}
        return [replace(distinct[key], weight=1) for key in sorted(distinct)]

    def arrivals(self, family: Family) -> dict[str, int]:
        """The interfaces that are one uplink of a family, and its index in `uplinks`."""
        found: dict[str, list[int]] = {}
        for index, uplink in enumerate(self.uplinks()):
            if uplink.family == family:
                found.setdefault(uplink.interface, []).append(index)
        return {interface: indexes[0] for interface, indexes in found.items() if len(indexes) == 1}

    @property
    def empty(self) -> bool:
        return not self.services and not self.egress


EMPTY = Config((), ())


@cache
def protocol_number(protocol: Protocol) -> int:
    """IANA's number of a transport protocol."""
    return {"tcp": 6, "udp": 17, "sctp": 132}[protocol]


def dump(config: Config) -> dict[str, Any]:
    """The configuration as JSON has it, for `request.declared`."""
    return {
        "services": [dump_service(service) for service in config.services],
        "egress": [dump_egress(item) for item in config.egress],
        "mark_mask": config.mark_mask,
        "networks": {name: list(networks) for name, networks in config.networks.items()},
    }
