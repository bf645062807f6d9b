# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations that are valid by construction, for hypothesis.

Each service of a list has addresses and ports of its own. Some listen on ports that several have as well, each in a
range within those of others or on a port within all; so no two of them are in conflict. Within a service everything is
drawn.
"""

from __future__ import annotations

import ipaddress
import random
from typing import Any

from _natlb.errors import ConfigErrors
from _natlb.model.admission import admission
from _natlb.model.backups import BACKUPS
from _natlb.model.services import parse_config
from hypothesis import strategies as st

Declared = dict[str, Any]

METHODS = ("round_robin", "least_connections", "random", "source_hash", "flow_hash", "destination_hash")
PROTOCOLS = ("tcp", "udp", "sctp")
#: Interfaces that a host need not have: rules may name them all the same.
INTERFACES = ("front", "back", "eth0.100", "wg-1", "br_lan.if7")
UPLINKS = ({"interface": "up1", "gateway": "100.64.1.1"}, {"interface": "up2", "gateway": "100.64.2.1"})

_names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True) | st.from_regex(
    r"[a-z][a-z0-9_-]{62}", fullmatch=True
)
_weights = st.sampled_from((1, 1, 1, 1, 2, 3, 5, 10, 0)) | st.integers(0, 256)
_ports = st.integers(1, 65535)
_durations = st.sampled_from((0, 0, 5, "90s", "3h"))
_client_prefixes = st.fixed_dictionaries({}, optional={"ipv4": st.integers(1, 32), "ipv6": st.integers(1, 128)})
_limits = st.just(0) | st.integers(1, 5000)
_v4_networks = st.builds(lambda b, n: _network(f"198.{18 + b % 2}.{b}.0", n), st.integers(0, 255), st.integers(15, 32))
_v6_networks = st.builds(lambda b, n: _network(f"2001:db8:{b:x}::", n), st.integers(1, 0xFFFF), st.integers(33, 128))


#: Source addresses; no backend has one.
_OWN = {"ip": ("10.0.0.251", "10.0.0.252", "10.0.0.253"), "ip6": ("2001:db8:2::2000", "2001:db8:2::2001")}
#: Without bits of uplinks.
_MARKS = ("0x10/0xff", "0x0/0xf0", "0xff/0xff", "0x1/0x1", "0x7/0xc0ffffff")


def _network(address: str, length: int) -> str:
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))


@st.composite
def services(
    draw: st.DrawFn, most: int = 6, methods: tuple[str, ...] = METHODS, limited: bool = True
) -> list[Declared]:
    """A list of up to `most` services that `parse_config` takes; for iptables without limits of backends."""
    names = draw(st.lists(_names, unique=True, max_size=most))
    return [draw(service(name, index, methods, limited)) for index, name in enumerate(names)]


@st.composite
def service(
    draw: st.DrawFn, name: str, index: int, methods: tuple[str, ...] = METHODS, limited: bool = True
) -> Declared:
    """One service; `index` tells its addresses and ports from those of the others."""
    families = draw(st.sampled_from((("ip",), ("ip",), ("ip6",), ("ip", "ip6"))))
    declared: Declared = {
        "name": name,
        "listen": draw(_listens(index, families)),
        "protocol": draw(st.lists(st.sampled_from(PROTOCOLS), min_size=1, max_size=3, unique=True)),
        "method": draw(st.sampled_from(methods)),
        "backends": draw(_backends(families, limited)),
        "snat": draw(_snat(families)),
        "snat_by_client": draw(_by_client(families)),
        "mark": draw(st.sampled_from(_MARKS)),
        "helper": draw(st.sampled_from(("", "ftp", "tftp", "sip") if limited else ("",))),
        "idle_timeout": draw(st.sampled_from((0, "90s", "5d") if limited else (0,))),
        "snat_ports": draw(st.sampled_from(("61000-64999", "61000", ""))),
        "affinity": draw(_durations),
        "client_prefix": draw(_client_prefixes),
        "allow_from": draw(_allowed(families)),
        "deny_from": draw(_allowed(families)),
        "when_denied": draw(st.sampled_from(("reject", "drop"))),
        "max_connections_per_client": draw(_limits),
        "new_connections_per_second": draw(_limits),
        "when_empty": draw(st.sampled_from(("reject", "drop"))),
        "log": draw(st.booleans()),
        "redispatch": draw(st.booleans()),
        "backups": draw(st.sampled_from(BACKUPS)),
        "takeover": False,
        "interface": draw(st.none() | st.sampled_from(INTERFACES)),
    }
    if not declared["backends"] and any(listen.startswith("*") for listen in declared["listen"]):
        declared["snat_by_client"] = []
        declared["snat"] = "masquerade"  # With no backend to tell the family, `*` means both.
    if "tcp" not in declared["protocol"]:
        declared["redispatch"] = False
    declared["pins"] = draw(_pins(declared["backends"]))
    kept = {*draw(st.sets(st.sampled_from(sorted(declared)))), "name", "listen", "backends", "snat"}
    # Left out, these mean everybody and every interface; an empty value must not come to mean that, and is refused.
    kept -= {key for key in ("allow_from", "deny_from", "interface") if not declared[key]}
    useful = {
        "backups": any(item.get("backup") for item in declared["backends"]),
        "snat_ports": declared["snat"] != "none" and declared["snat_ports"],
        "mark": declared["mark"],
    }
    kept -= {key for key, is_useful in useful.items() if not is_useful}
    declared["backends"] = draw(
        _with_priorities(declared["backends"], declared["backups"] if "backups" in kept else "")
    )
    if "deny_from" in kept and _leaves_nobody(declared["allow_from"] if "allow_from" in kept else [], declared):
        kept.discard("deny_from")
    sticks = declared["affinity"] and "affinity" in kept
    if not sticks and not (declared["method"] == "source_hash" and "method" in kept):
        kept.discard("client_prefix")
    if "protocol" not in kept:
        kept.discard("redispatch")
    elif "sctp" in declared["protocol"]:
        kept.discard("idle_timeout")
    spoken = {"ftp": {"tcp"}, "tftp": {"udp"}, "sip": {"tcp", "udp"}}.get(declared["helper"], set())
    if not {*(declared["protocol"] if "protocol" in kept else ["tcp"])} <= spoken:
        kept.discard("helper")
    return {key: declared[key] for key in declared if key in kept}


def _leaves_nobody(allow: list[str], declared: Declared) -> bool:
    """Whether the lists contradict each other, or admit nobody of a family, which is refused."""
    deny = declared["deny_from"]
    found = [admission(tuple(allow), tuple(deny), family) for family in ("ip", "ip6")]
    return bool({*allow} & {*deny}) or any(item is not None and item.only and not item.networks for item in found)


@st.composite
def _pins(draw: st.DrawFn, backends: list[Declared]) -> list[Declared]:
    """Networks in each other and side by side."""
    found = []
    for backend in backends:
        six = ":" in backend["address"]
        nets = ("2001:db8:18::/48", "2001:db8:18::/64", "2001:db8:18::7", "::/0")
        for network in draw(st.sets(st.sampled_from(nets if six else ("198.18.0.0/16", "198.18.7.0/24", "0.0.0.0/0")))):
            if network not in [pin["client"] for pin in found]:
                found.append({"client": network, "backend": backend.get("name", backend["address"])})
    return found


@st.composite
def in_lists(draw: st.DrawFn, declared: list[Declared]) -> tuple[list[Declared], dict[str, list[str]]]:
    """The same services with some of their clients' networks in lists that they name, and these lists."""
    lists: dict[str, list[str]] = {}

    def name_of(networks: list[str]) -> str:
        return next((name for name in lists if lists[name] == networks), f"list-{len(lists)}")

    def words(networks: list[str]) -> list[str]:
        chosen = draw(st.sampled_from(([], networks, networks[:1], networks[1:])))
        if not chosen:
            return networks
        name = name_of(chosen)
        lists[name] = chosen
        return [*(network for network in networks if network not in chosen), name]

    def pins(found: list[Declared]) -> list[Declared]:
        of_backends: dict[str, list[str]] = {}
        for pin in found:
            of_backends.setdefault(pin["backend"], []).append(pin["client"])
        return [{"client": word, "backend": name} for name, nets in of_backends.items() for word in words(nets)]

    readers = {
        "allow_from": words,
        "deny_from": words,
        "snat_by_client": lambda rules: [{**rule, "networks": words(rule["networks"])} for rule in rules],
        "pins": pins,
    }
    found = [{key: readers[key](value) if key in readers else value for key, value in it.items()} for it in declared]
    return found, lists


@st.composite
def _listens(draw: st.DrawFn, index: int, families: tuple[str, ...]) -> list[str]:
    hosts = {"ip": f"192.0.2.{10 + index}", "ip6": f"[2001:db8:1::{10 + index:x}]"}
    found = []
    for family in families:
        low = draw(st.integers(1, 9000))
        last = draw(st.just(low) | st.integers(low, low + 500))
        found.append(f"{hosts[family]}:{low}" + (f"-{last}" if last != low else ""))
        if draw(st.booleans()):
            found.append(f"{hosts[family]}:{draw(st.integers(9600, 20000))}")
    if draw(st.integers(0, 4)) == 0:
        # Above all other ports, so that it overlaps with no address of another service.
        low = 30000 + 100 * index
        found.append(f"*:{low}" + draw(st.sampled_from(("", f"-{low + 99}"))))
    if draw(st.integers(0, 2)) == 0:
        shared = {"ip": "192.0.2.9", "ip6": "[2001:db8:1::9]"}
        host = draw(st.sampled_from(("*", *(shared[family] for family in families))))
        ports = draw(st.sampled_from((f"{21000 + index}-{21999 - index}", str(21400 + index))))
        found.append(f"{host}:{ports}")
    return found


@st.composite
def _backends(draw: st.DrawFn, families: tuple[str, ...], limited: bool) -> list[Declared]:
    """None at all, or at least one of each family; never the same address twice, never all weights 0."""
    if draw(st.integers(0, 7)) == 0:
        return []
    found = []
    for family in families:
        for number in draw(st.lists(st.integers(1, 999), unique=True, min_size=1, max_size=5)):
            address = f"10.0.{number // 250}.{number % 250 + 1}" if family == "ip" else f"2001:db8:2::{number:x}"
            found.append({"address": address, **draw(_backend_keys(limited)), **draw(_backend_snat(family))})
    if not any(backend.get("weight", 1) for backend in found):
        found[0]["weight"] = 1
    return found


@st.composite
def _with_priorities(draw: st.DrawFn, backends: list[Declared], backups: str) -> list[Declared]:
    """All backups have one, or none."""
    count = draw(st.integers(0, 3)) if backups in ("one_for_one", "first") else 0
    return [
        {**item, "priority": 1 + number % count} if count and item.get("backup") else item
        for number, item in enumerate(backends)
    ]


def _backend_keys(limited: bool) -> st.SearchStrategy[Declared]:
    return st.fixed_dictionaries(
        {},
        optional={
            "port": _ports | st.just("+1000"),
            "weight": _weights,
            "state": st.sampled_from(("active", "active", "drained", "disabled")),
            "backup": st.booleans(),
            "mark": st.sampled_from(_MARKS),
            **({"max_connections": _limits} if limited else {}),
        },
    )


def _backend_snat(family: str) -> st.SearchStrategy[Declared]:
    return st.fixed_dictionaries({}, optional={"snat": st.sampled_from(("masquerade", "none", *_OWN[family]))})


def _snat(families: tuple[str, ...]) -> st.SearchStrategy[Any]:
    each = [st.lists(st.sampled_from(_OWN[family]), unique=True, min_size=1) for family in families]
    addresses = st.tuples(*each).map(lambda lists: [address for part in lists for address in part])
    return st.sampled_from(("masquerade", "masquerade", "none")) | addresses


@st.composite
def _by_client(draw: st.DrawFn, families: tuple[str, ...]) -> list[Declared]:
    """Networks of one family in each entry, and in no other."""
    found: list[Declared] = []
    given: set[str] = set()
    for family in draw(st.lists(st.sampled_from(families), max_size=3)):
        networks = draw(st.lists(_v4_networks if family == "ip" else _v6_networks, max_size=4))
        apart = [network for network in dict.fromkeys(networks) if network not in given]
        given.update(apart)
        if apart:
            found.append({"networks": apart, "snat": draw(_snat((family,)))})
    return found


def _allowed(families: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    networks = st.one_of([_v4_networks if family == "ip" else _v6_networks for family in families])
    return st.just([]) | st.lists(networks, max_size=6)


@st.composite
def egress(draw: st.DrawFn, most: int = 3, uplinks: bool = True) -> list[Declared]:
    """Up to `most` egress rules; with `uplinks` some go out by `UPLINKS`, whose interfaces a host must have."""
    return [draw(_egress(uplinks)) for _unused in range(draw(st.integers(0, most)))]


@st.composite
def _egress(draw: st.DrawFn, uplinks: bool) -> Declared:
    six = draw(st.booleans())
    networks = [f"2001:db8:{i}::/64" for i in (2, 3)] if six else ["10.0.0.0/24", "10.1.0.0/16", "10.2.3.4"]
    declared: Declared = {"source": draw(st.lists(st.sampled_from(networks), unique=True, min_size=1))}
    if draw(st.booleans()):
        declared["protocol"] = draw(st.sampled_from(PROTOCOLS))
        ports = draw(st.lists(_ports, max_size=4))
        declared.update({"destination_ports": ports} if ports else {})
    way = draw(st.sampled_from(("any", "interface", "address", "uplinks")))
    if way == "interface":
        declared["out_interface"] = draw(st.sampled_from(INTERFACES))
    elif way == "address":
        declared["snat"] = "2001:db8:1::2" if six else "192.0.2.2"
    if draw(st.booleans()):
        declared["snat_ports"] = draw(st.sampled_from(("61000-64999", "61000")))
    if way == "uplinks" and uplinks and not six:
        chosen = draw(st.lists(st.sampled_from(range(len(UPLINKS))), unique=True, min_size=1))
        declared["uplinks"] = [{**UPLINKS[i], "weight": draw(st.integers(1, 5))} for i in chosen]
    return declared


def in_common(chance: random.Random) -> list[Declared]:
    """Services that share ports, up to the address and the interface, and backends that share addresses."""
    found: list[Declared] = []
    for number in range(6):
        host, ports = (
            chance.choice(("*", "*", "192.0.2.9")),
            chance.choice(("8000-8010", "8005-8020", "8005", "7990-8030")),
        )
        where = [
            (f"10.0.0.{chance.randint(3, 4)}", chance.choice((None, None, "+5", "+7", 8005, 8008))) for _one in range(3)
        ]
        backends = [
            {"name": f"b{index}", "address": address, **({"port": port} if port else {})}
            for index, (address, port) in enumerate(dict.fromkeys(where))
        ]
        declared = {"name": f"s{number}", "listen": f"{host}:{ports}", "backends": backends, "redispatch": True}
        declared |= chance.choice(({}, {"interface": "eth0"}, {"interface": "eth1"}, {"redispatch": False}))
        try:
            parse_config([*found, declared])
        except ConfigErrors:
            continue  # It has a frontend that another one has, or two backends alike.
        found.append(declared)
    return found
