# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number of connections of each backend, from the packet counters of the translating rules.

The nat table sees only the first packet of a connection, so a rule's packets are connections.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from collections.abc import Iterable

from ..host import netlink
from ..host.removed import Rule
from ..model.entities import Backend, Config, Service
from ..packets import Family
from ..ruleset.names import HASH_CHARACTERS
from .dispatch import MAX_NAME, PREFIX, chain_name
from .service import destination

_RULE = re.compile(r"\[(\d+):\d+\] -A (\S+) .*?-([jg]) (\S+)(?: --to-destination (\S+))?\s*\Z")

#: (packets, target, destination) of the rules of a chain.
#: The content of the target DNAT as the kernel keeps it (linux/netfilter/nf_nat.h): flags, both ends of a range of
#: addresses, of which we give one, and of ports. The first revision of IPv4 has a number before it, and no more than
#: four bytes for an address.
_TARGET_NAME, _TARGET_INFO = 1, 3
_RANGE = struct.Struct("=I16s16sH")
_OLD_RANGE = struct.Struct("=II4s4sH")
_HAS_PORT = 2

#: Where the name of a chain is cut that would be too long (`dispatch.cut`).
_CUT = MAX_NAME - HASH_CHARACTERS - 1

_Rules = dict[str, list[tuple[int, str, str]]]


def count(config: Config, family: Family, listing: str) -> dict[tuple[str, str], int]:
    """New connections by (service, backend key), from the output of `iptables-save --counters`."""
    rules = _rules(listing)
    found: dict[tuple[str, str], int] = {}
    for service in config.services:
        if family not in service.families():
            continue
        backends = {destination(service, item): item.key for item in service.backends if item.family == family}
        for protocol in service.protocols:
            for packets, to in _translations(rules, chain_name(service.name, protocol)):
                if to in backends:
                    key = (service.name, backends[to])
                    found[key] = found.get(key, 0) + packets
    return found


def _rules(listing: str) -> _Rules:
    rules: _Rules = {}
    table = ""
    for line in listing.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        match = _RULE.match(line) if table == "nat" else None
        if match:
            rules.setdefault(match.group(2), []).append((int(match.group(1)), match.group(4), match.group(5) or ""))
    return rules


def _translations(rules: _Rules, start: str) -> list[tuple[int, str]]:
    """(packets, destination) of each translating rule that is reached from a chain."""
    found: list[tuple[int, str]] = []
    waiting: list[str] = [start]
    seen: set[str] = {start}
    while waiting:
        for packets, target, to in rules.get(waiting.pop(), []):
            if target == "DNAT":
                found.append((packets, to))
            elif target in rules and target not in seen:
                seen.add(target)
                waiting.append(target)
    return found


def count_removed(config: Config, rules: Iterable[Rule]) -> dict[tuple[str, str], int]:
    """The same of rules that are gone, by the chain that they were in and where they led to. Of two services with long
    names that begin alike and share a backend it cannot be told which one it was: that is not counted."""
    found: dict[tuple[str, str], int] = {}
    translations = [(rule, to) for rule in rules if rule.table == "nat" for to in _destination(rule)]
    owners = _Owners(config, {_beginning(rule.chain) for rule, _to in translations})
    for rule, to in translations:
        keys = owners.of(rule.chain, to)
        if len(keys) == 1:
            found[keys[0]] = found.get(keys[0], 0) + rule.packets
    return found


def _destination(rule: Rule) -> Iterable[tuple[bytes, int]]:
    """Address and port that a rule translates to, if it does; port 0 is that of the client."""
    for name, data in rule.expressions:
        own = netlink.attributes(data) if name == "target" else {}
        if own.get(_TARGET_NAME, b"").rstrip(b"\0") != b"DNAT":
            continue
        info = own.get(_TARGET_INFO, b"")
        if len(info) >= _RANGE.size:
            flags, address, _last, port = _RANGE.unpack_from(info)
        elif len(info) >= _OLD_RANGE.size:
            _count, flags, address, _last, port = _OLD_RANGE.unpack_from(info)
        else:
            continue
        yield address.ljust(16, b"\0"), socket.ntohs(port) if flags & _HAS_PORT else 0


class _Owners:
    """The backends that a rule may have counted for, by its chain and where it led to."""

    def __init__(self, config: Config, beginnings: set[str]) -> None:
        self._services: dict[str, list[Service]] = {}
        for service in config.services if beginnings else ():
            for protocol in service.protocols:
                whole = ".".join((PREFIX[:-1], service.name, protocol))
                for beginning in beginnings.intersection((whole, whole[:_CUT])):
                    self._services.setdefault(beginning, []).append(service)

    def of(self, chain: str, to: tuple[bytes, int]) -> list[tuple[str, str]]:
        """(service, backend key) of each."""
        beginning = _beginning(chain)
        return list(
            {
                (service.name, backend.key): None
                for service in self._services.get(beginning, ())
                for backend in service.backends
                if (_packed(backend.address), _first_port(service, backend)) == to
            }
        )


def _beginning(chain: str) -> str:
    """What the name of a chain says of its service: service and protocol, or as much of it as was not cut off."""
    is_cut = len(chain) == MAX_NAME and chain[_CUT] == "/"
    return chain[:_CUT] if is_cut else ".".join(chain.split(".")[:3])


def _first_port(service: Service, backend: Backend) -> int:
    return service.listen_range[0] + backend.shift if backend.shift else backend.port or 0


def _packed(address: str) -> bytes:
    """An address as it stands in the first of 16 bytes."""
    return ipaddress.ip_address(address).packed.ljust(16, b"\0")
