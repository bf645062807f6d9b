# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rulesets that first_packet.py compares: ours, and what one would write instead.

All of them do the same to a packet: another destination, and a source port of its own at the balancer's address.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import report
from control_plane import CHILD, Namespace

BACKENDS = 4
PORT, BACKEND_PORT = 80, 8080


@dataclass(frozen=True)
class Service:
    """A service as the benchmark knows it: its address, and those of its backends."""

    address: str
    backends: tuple[str, ...]


def services(count: int, family: str = "ip") -> list[Service]:
    """`count` services, each with an address of its own; 250 backends of each number share the services."""
    if family == "ip6":
        return [
            Service(f"2001:db8:18::{i + 1:x}", tuple(f"2001:db8:10::{i % 250:x}:{k + 3:x}" for k in range(BACKENDS)))
            for i in range(count)
        ]
    return [
        Service(f"198.18.{i // 250}.{i % 250 + 1}", tuple(f"10.0.{i % 250}.{k + 3}" for k in range(BACKENDS)))
        for i in range(count)
    ]


#: Loads services into a balancer's namespace.
Load = Callable[[Namespace, Sequence[Service]], None]


@dataclass(frozen=True)
class Layout:
    """A way to write the rules of many services."""

    name: str
    load: Load
    family: str = "ip"
    #: How many of the service's backends it uses; 0 where it does not translate at all.
    backends: int = BACKENDS
    #: Whether all backends get the same number of connections, to one more or less.
    even: bool = False
    #: Whether backends see the client.
    shows_client: bool = False

    def translates_to(self, service: Service) -> tuple[str, ...]:
        return service.backends[: self.backends]


# -- ours ------------------------------------------------------------------------------------------------------------


def natlb(
    engine: str,
    variant: str | None = None,
    method: str = "round_robin",
    redispatch: bool = False,
    limits: Sequence[int] = (0,) * BACKENDS,
    of_backends: Mapping[str, Any] = MappingProxyType({}),
    **keys: Any,
) -> Load:
    """Loads through the core, as the module does. `limits` are the most connections of each backend, `of_backends` more
    keys of each, and `keys` of each service."""

    def load(namespace: Namespace, declared: Sequence[Service]) -> None:
        request: dict[str, Any] = {
            "engine": engine,
            "variant": variant,
            "services": [
                {
                    "name": f"s{number}",
                    "listen": f"[{service.address}]:{PORT}" if ":" in service.address else f"{service.address}:{PORT}",
                    "method": method,
                    "redispatch": redispatch,
                    **keys,
                    "backends": [
                        {"address": backend, "port": BACKEND_PORT, "max_connections": most, **of_backends}
                        for backend, most in zip(service.backends, limits, strict=True)
                    ],
                }
                for number, service in enumerate(declared)
            ],
        }
        with tempfile.TemporaryDirectory() as folder:
            request |= {"etc": f"{folder}/etc", "run": f"{folder}/run"}
            core = str(report.ROOT / "plugins" / "module_utils")
            namespace.run(sys.executable, "-c", CHILD, core, text=json.dumps(request))

    return load


# -- the floor -------------------------------------------------------------------------------------------------------


def static_nft(namespace: Namespace, declared: Sequence[Service]) -> None:
    """One rule to one backend."""
    service = declared[0]
    family, target = ("ip6", f"[{service.backends[0]}]") if ":" in service.address else ("ip", service.backends[0])
    rule = f"{family} daddr {service.address} tcp dport {PORT} dnat {family} to {target}:{BACKEND_PORT}"
    _nft(namespace, family, [f"chain prerouting {{ {_HOOKS['prerouting']} {rule}; }}"])


def by_hand(namespace: Namespace, declared: Sequence[Service]) -> None:
    """What natlb does for one service, without any map of services: turns, and source NAT for this frontend alone."""
    service = declared[0]
    slots = ", ".join(f"{index} : {backend} . {BACKEND_PORT}" for index, backend in enumerate(service.backends))
    rule = f"ip daddr {service.address} tcp dport {PORT} dnat ip to numgen inc mod {BACKENDS} map {{ {slots} }}"
    ours = f"meta l4proto tcp ct original ip daddr {service.address} ct original proto-dst {PORT}"
    back = f"ct status dnat {ours} masquerade"
    _nft(namespace, "ip", [f"chain prerouting {{ {_HOOKS['prerouting']} {rule}; }}"], back)


def static_iptables(variant: str) -> Load:
    """One rule to one backend."""

    def load(namespace: Namespace, declared: Sequence[Service]) -> None:
        match = f"-A PREROUTING -d {declared[0].address}/32 -p tcp -m tcp --dport {PORT}"
        _iptables(namespace, variant, [], [f"{match} {_dnat(declared[0].backends[0])}"])

    return load


def nothing(namespace: Namespace, declared: Sequence[Service]) -> None:
    """No rules: the wires, two routing decisions, and the sender itself."""
    del namespace, declared


# -- others ----------------------------------------------------------------------------------------------------------


def flat_iptables(variant: str) -> Load:
    """One rule per service, and random statistic rules in a chain per service: the way of kube-proxy in its iptables
    mode, without the further chain per backend and the packet marks that it has on top."""

    def load(namespace: Namespace, declared: Sequence[Service]) -> None:
        find, choose = [], []
        for number, service in enumerate(declared):
            find.append(f"-A PREROUTING -d {service.address}/32 -p tcp -m tcp --dport {PORT} -j S{number}")
            for index, backend in enumerate(service.backends):
                left = len(service.backends) - index
                chance = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
                choose.append(f"-A S{number} -p tcp {chance}{_dnat(backend)}")
        _iptables(namespace, variant, [f"S{number}" for number in range(len(declared))], [*find, *choose])

    return load


def chain_per_service(namespace: Namespace, declared: Sequence[Service]) -> None:
    """A map of the services to a chain each, with a map of its own: what one would write first with nftables."""
    elements = ",\n".join(f"{s.address} . tcp . {PORT} : goto s{number}" for number, s in enumerate(declared))
    lines = []
    for number, service in enumerate(declared):
        slots = ", ".join(f"{index} : {backend} . {BACKEND_PORT}" for index, backend in enumerate(service.backends))
        choose = f"meta l4proto tcp dnat ip to numgen inc mod {len(service.backends)} map {{ {slots} }}"
        lines.append(f"chain s{number} {{ {choose}; }}")
    kinds = "ipv4_addr . inet_proto . inet_service"
    lines.append(f"map services {{ type {kinds} : verdict; elements = {{ {elements} }}; }}")
    find = "ip daddr . meta l4proto . th dport vmap @services"
    _nft(namespace, "ip", [*lines, f"chain prerouting {{ {_HOOKS['prerouting']} {find}; }}"])


_HOOKS = {
    "prerouting": "type nat hook prerouting priority -100;",
    "output": "type nat hook output priority -100;",
    "postrouting": "type nat hook postrouting priority 100;",
}


def _nft(namespace: Namespace, family: str, lines: Sequence[str], back: str = "ct status dnat masquerade") -> None:
    after = [f"chain output {{ {_HOOKS['output']} }}", f"chain postrouting {{ {_HOOKS['postrouting']} {back}; }}"]
    namespace.run("nft", "-f", "-", text="\n".join([f"table {family} nat {{", *lines, *after, "}", ""]))


def _dnat(backend: str) -> str:
    return f"-j DNAT --to-destination {backend}:{BACKEND_PORT}"


def _iptables(namespace: Namespace, variant: str, chains: Sequence[str], rules: Sequence[str]) -> None:
    back = "-A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE"
    declared = [f":{chain} - [0:0]" for chain in chains]
    namespace.run(f"iptables-{variant}-restore", text="\n".join(["*nat", *declared, *rules, back, "COMMIT", ""]))


# -- all of them -----------------------------------------------------------------------------------------------------

STATIC = Layout("one static rule, nft", static_nft, backends=1)
STATIC6 = Layout("one static rule, nft, IPv6", static_nft, "ip6", backends=1)
BY_HAND = Layout("four backends in turn, and source NAT for this service alone, nft", by_hand, even=True)
NOTHING = Layout("forwarded without NAT", nothing, backends=0)
STATIC_IPTABLES = [
    Layout(f"one static rule, iptables ({variant})", static_iptables(variant), backends=1)
    for variant in ("nft", "legacy")
]

NFTABLES = Layout("natlb, nftables", natlb("nftables"), even=True)
IPTABLES = [Layout(f"natlb, iptables ({v})", natlb("iptables", v), even=True) for v in ("nft", "legacy")]
OURS = [NFTABLES, *IPTABLES]
OURS6 = [
    Layout("natlb, nftables, IPv6", natlb("nftables"), "ip6", even=True),
    Layout("natlb, iptables (nft), IPv6", natlb("iptables", "nft"), "ip6", even=True),
    Layout("natlb, iptables (legacy), IPv6", natlb("iptables", "legacy"), "ip6", even=True),
]
RANDOM = Layout("natlb, nftables, `random`", natlb("nftables", method="random"))
SOURCE_HASH = Layout("natlb, nftables, `source_hash`", natlb("nftables", method="source_hash"))
_FOREIGN = [f"203.{number >> 8}.{number & 255}.0/25" for number in range(1000)]
#: What a key of a service costs: by its name, and whether iptables has it.
KEYS: dict[str, tuple[dict[str, Any], bool]] = {
    "`mark`": ({"mark": "0x10/0xff"}, True),
    "`mark` of each backend": ({"of_backends": {"mark": "0x10/0xff"}}, True),
    "`snat_by_client` of 1,000 networks": ({"snat_by_client": [{"networks": _FOREIGN, "snat": "none"}]}, True),
    "`snat` of each backend": ({"of_backends": {"snat": "masquerade"}, "snat": "none"}, True),
    "`snat_ports`": ({"snat_ports": "1024-65535"}, True),
    "`deny_from` of 1,000 networks": ({"deny_from": _FOREIGN}, True),
    "`pins` of 1,000 networks": ({"pins": _FOREIGN}, True),
    "`affinity`": ({"affinity": 60}, True),
    "`max_connections_per_client`": ({"max_connections_per_client": 1000000}, True),
    "`idle_timeout`": ({"idle_timeout": "1h"}, False),
    "`helper`": ({"helper": "ftp"}, False),
}


def _with_key(engine: str, key: str) -> Layout:
    keys = dict(KEYS[key][0])
    if "pins" in keys:
        pinned = keys.pop("pins")

        def load(namespace: Namespace, declared: Sequence[Service]) -> None:
            pins = [{"client": network, "backend": declared[0].backends[0]} for network in pinned]
            natlb(engine, "nft", pins=pins)(namespace, declared)

        return Layout(f"natlb, {engine}, {key}", load, even=True)
    # All packets are of one client.
    return Layout(f"natlb, {engine}, {key}", natlb(engine, "nft", **keys), even="affinity" not in keys)


WITH_KEYS = [
    _with_key(engine, key)
    for key, (_keys, of_iptables) in KEYS.items()
    for engine in ("nftables", "iptables")
    if of_iptables or engine == "nftables"
]
OTHERS = [
    Layout("a chain and a map per service, nft", chain_per_service, even=True),
    Layout("a rule per service, iptables (nft)", flat_iptables("nft")),
    Layout("a rule per service, iptables (legacy)", flat_iptables("legacy")),
]


def shuffled(declared: Sequence[Service], seed: int = 1) -> list[Service]:
    """The services in an order by chance, the same each time."""
    order = list(declared)
    random.Random(seed).shuffle(order)
    return order
