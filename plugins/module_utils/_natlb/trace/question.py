# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which connection is asked about: `CLIENT[:PORT] ADDRESS:PORT[/PROTOCOL]`, as people type it. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ConfigError
from ..model import values
from ..packets import PROTOCOLS, Family, Protocol, family_of

_EXAMPLE = "write it like 198.51.100.7 192.0.2.10:80/tcp"
_BRACKETS = "an IPv6 address stands in brackets before a port, like [2001:db8::10]:80"


#: A network, and a port and a protocol that may follow it.
_NETWORK = re.compile(r"\[?([0-9A-Fa-f:.]+/\d+)\]?(?::(\d+))?(/\w+)?")


class Question(NamedTuple):
    """A connection of a client. `client_port` is None where it may be any."""

    client: str
    client_port: int | None
    target: str
    port: int
    protocol: Protocol

    @property
    def family(self) -> Family:
        return family_of(self.target)

    def __str__(self) -> str:
        client = values.endpoint(self.client, self.client_port)
        return f"{client} -> {values.endpoint(self.target, self.port)}/{self.protocol}"


def parse(words: Sequence[str]) -> Question:
    """Raises `ConfigError`. An arrow may stand between the two, quoted as a shell wants it."""
    if words and words[-1] == "-":
        raise ConfigError("", "the shell took the arrow for a redirection, and made a file", "leave the arrow out")
    parts = [word for word in re.split(r"\s+|->", " ".join(words)) if word]
    if len(parts) != 2:
        raise ConfigError(" ".join(words), "names no client and target", _EXAMPLE)
    for part, what in zip(parts, ("the client", "the target")):
        _check_network(part, what)
    target, slash, protocol = parts[1].partition("/")
    protocol = values.choice(protocol.lower(), "the protocol", PROTOCOLS) if slash else "tcp"
    client, client_port = _peer(parts[0], "the client")
    address, port = _peer(target, "the target")
    if port is None:
        raise ConfigError("the target", f"{address} has no port", _BRACKETS if ":" in address else _EXAMPLE)
    if family_of(client) != family_of(address):
        raise ConfigError("the client", f"cannot reach {address}, which is of another family", _EXAMPLE)
    return Question(client, client_port, address, port, protocol)


def _check_network(text: str, path: str) -> None:
    found = _NETWORK.fullmatch(text)
    try:
        network = ipaddress.ip_network(found[1], strict=False) if found else None
    except ValueError:
        return
    if found and network is not None:
        one = network[1] if network.num_addresses > 1 else network[0]
        example = values.endpoint(str(one), int(found[2]) if found[2] else None) + (found[3] or "")
        raise ConfigError(path, f"{text} is a network, and a connection has one address", f"name one, like {example}")


def _peer(text: str, path: str) -> tuple[str, int | None]:
    host, port = values.taken_apart(text)
    try:
        address = values.address(host, path)
    except ConfigError as error:
        raise ConfigError(path, error.problem, _BRACKETS if host.count(":") > 1 else error.remedy) from None
    return str(address), None if port is None else values.port(port, f"the port of {path[4:]}")
