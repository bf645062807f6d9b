# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New connections of each backend, from the counters of slots as the kernel gives them over netlink. Pure.

A program that lists them, and a reader of its text, cost ten times as much: with ten thousand services 1.7 s, and not
0.2.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Union

from ..model.entities import Config, Service
from .names import is_backend_chain
from .text import backend_chains

#: Bytes of an address and of a port; each part of a key is padded to a multiple of four bytes.
_ADDRESS = {12: 4, 24: 16}
_PORT = 2

#: Key of a slot without its number: protocol, address, port.
_Place = tuple[str, bytes, bytes]
#: A backend: its address, and its port or how far that is from the one of the client.
_To = tuple[bytes, Union[bytes, int]]


def count_slots(config: Config, slots: Iterable[tuple[str, bytes, bytes, int]]) -> dict[tuple[str, str], int]:
    """New connections by (service, backend key), from the protocol, the key, the data and the packets of each slot."""
    owners: dict[_Place, Service] = {
        (frontend.protocol, _packed(frontend.address), frontend.low.to_bytes(_PORT, "big")): service
        for service in config.services
        for frontend in service.frontends()
        if frontend.exact and frontend.address
    }
    keys: dict[str, dict[_To, str]] = {}
    found: dict[tuple[str, str], int] = {}
    for protocol, key, data, packets in slots:
        size = _ADDRESS.get(len(key), 0)
        port = key[size : size + _PORT]
        service = owners.get((protocol, key[:size], port))
        if service is None:
            continue
        backends = keys.get(service.name)
        if backends is None:
            backends = keys[service.name] = _backends(service)
        to = data[:size], data[size : size + _PORT]
        # One without a port of its own has that of the client, or one so far from it.
        backend = backends.get(to) or backends.get((to[0], _between(port, to[1])))
        if backend is not None:
            found[service.name, backend] = found.get((service.name, backend), 0) + packets
    return found


def concerned(config: Config, elements: Iterable[tuple[str, bytes, bytes, int]]) -> Config:
    """With the services alone that these few slots may be of: of ten thousand, all would be prepared for in vain."""
    targets = {_unpacked(key) for _protocol, key, _data, _packets in elements}
    found = [s for s in config.services if any(frontend.address in targets for frontend in s.frontends())]
    return replace(config, services=tuple(found))


def count_rules(config: Config, rules: Iterable[tuple[str, int]]) -> dict[tuple[str, str], int]:
    """The same of the chains of backends, from the chain and the packets of each rule."""
    counting = [(chain, packets) for chain, packets in rules if is_backend_chain(chain) and packets]
    owners = backend_chains(config) if counting else {}
    found: dict[tuple[str, str], int] = {}
    for chain, packets in counting:
        if chain in owners:
            found[owners[chain]] = found.get(owners[chain], 0) + packets
    return found


def added(one: Mapping[tuple[str, str], int], other: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Both together."""
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _between(port: bytes, other: bytes) -> int:
    return int.from_bytes(other, "big") - int.from_bytes(port, "big")


def _backends(service: Service) -> dict[_To, str]:
    return {
        (_packed(item.address), item.port.to_bytes(_PORT, "big") if item.port else item.shift): item.key
        for item in service.backends
    }


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _unpacked(key: bytes) -> str:
    """The address that a slot is of."""
    size = _ADDRESS.get(len(key), 0)
    return str(ipaddress.ip_address(key[:size])) if size else ""
