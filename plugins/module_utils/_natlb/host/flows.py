# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracked connections of this network namespace: listed by conntrack(8), deleted over netlink.

conntrack(8) reads the whole table for each deletion, and cannot delete several entries in one call. The kernel itself
finds an entry directly by its addresses and ports.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterable

from ..errors import HostError
from ..packets import Family, Protocol
from . import netlink
from .netlink import NESTED, attribute
from .processes import require, run

# include/uapi/linux/netfilter/nfnetlink_conntrack.h of the kernel.
_DELETE = 2
_TUPLE_ORIG, _ZONE = 1, 18
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
#: Source and destination address.
ADDRESSES: dict[Family, tuple[int, int]] = {"ip": (1, 2), "ip6": (3, 4)}
FAMILY: dict[Family, tuple[socket.AddressFamily, str]] = {
    "ip": (socket.AF_INET, "ipv4"),
    "ip6": (socket.AF_INET6, "ipv6"),
}
PROTOCOL: dict[Protocol, int] = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}


class Flow:
    """One tracked connection, as the client sees it and as the backend answers it."""

    __slots__ = (
        "answerer",
        "answerer_port",
        "family",
        "protocol",
        "source",
        "source_port",
        "state",
        "target",
        "target_port",
        "zone",
        "zone_orig",
    )

    def __init__(self, family: Family, protocol: Protocol, state: str, fields: dict[str, list[str]]) -> None:
        self.family = family
        self.protocol = protocol
        self.state = state
        self.source = fields["src"][0]
        self.source_port = int(fields["sport"][0])
        self.target = fields["dst"][0]
        self.target_port = int(fields["dport"][0])
        self.answerer = fields["src"][1]
        self.answerer_port = int(fields["sport"][1])
        #: The zone of both directions, or of the first alone.
        self.zone = int(fields.get("zone", ["0"])[0])
        self.zone_orig = int(fields.get("zone-orig", ["0"])[0])


def listed(family: Family, protocol: Protocol) -> list[Flow]:
    """The tracked connections of one protocol. Raises `HostError` where conntrack(8) is missing."""
    text = run([require("conntrack", "conntrack"), "-L", "-f", FAMILY[family][1], "-p", protocol])
    return [flow for flow in (parse(family, line) for line in text.splitlines()) if flow is not None]


def parse(family: Family, line: str) -> Flow | None:
    """A line of `conntrack -L`; None where it is none of a protocol with ports."""
    words = line.split()
    fields: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            fields.setdefault(key, []).append(value)
    protocol = next((each for each in PROTOCOL if each == words[0]), None) if words else None
    if protocol is None or len(fields.get("src", ())) < 2 or len(fields.get("sport", ())) < 2:
        return None
    state = words[3] if len(words) > 3 and "=" not in words[3] and words[3].isupper() else ""
    return Flow(family, protocol, state, fields)


def delete(flows: Iterable[Flow]) -> None:
    """Delete these entries. One that has ended meanwhile is no error. Raises `HostError`."""
    try:
        with netlink.netfilter() as kernel:
            for flow in flows:
                with contextlib.suppress(FileNotFoundError):
                    kernel.ask(netlink.CONNTRACK, _DELETE, FAMILY[flow.family][0], _deletion(flow), netlink.ACKNOWLEDGE)
    except OSError as error:
        raise HostError(f"conntrack: {error.strerror}") from error


def _deletion(flow: Flow) -> bytes:
    """The attributes that identify the flow."""
    source, target = ADDRESSES[flow.family]
    addresses = attribute(source, _packed(flow.source)) + attribute(target, _packed(flow.target))
    ports = attribute(_PROTO_NUM, bytes([PROTOCOL[flow.protocol]]))
    ports += attribute(_PROTO_SRC_PORT, struct.pack("!H", flow.source_port))
    ports += attribute(_PROTO_DST_PORT, struct.pack("!H", flow.target_port))
    connection = attribute(_TUPLE_IP | NESTED, addresses) + attribute(_TUPLE_PROTO | NESTED, ports)
    if flow.zone_orig:
        connection += attribute(_TUPLE_ZONE, struct.pack("!H", flow.zone_orig))
    body = attribute(_TUPLE_ORIG | NESTED, connection)
    if flow.zone:
        body += attribute(_ZONE, struct.pack("!H", flow.zone))
    return body


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed
