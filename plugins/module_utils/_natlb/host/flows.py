# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracked connections of this network namespace: listed by conntrack(8), deleted over netlink.

conntrack(8) reads the whole table for each deletion, and cannot name several in one call; the kernel itself finds an
entry by its addresses and ports at once.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable

from ..errors import HostError
from .processes import require, run

# include/uapi/linux/netlink.h, netfilter/nfnetlink.h and netfilter/nfnetlink_conntrack.h of the kernel.
_NETLINK_NETFILTER = 12
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_NLMSG_ERROR = 2
_NLA_F_NESTED = 0x8000
_DELETE = (1 << 8) | 2
_TUPLE_ORIG, _ZONE = 1, 18
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
#: Source and destination address.
_ADDRESSES = {"ip": (1, 2), "ip6": (3, 4)}
_FAMILY = {"ip": (socket.AF_INET, "ipv4"), "ip6": (socket.AF_INET6, "ipv6")}
_PROTOCOL = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
_ENOENT = 2


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

    def __init__(self, family: str, protocol: str, state: str, fields: dict[str, list[str]]) -> None:
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


def listed(family: str, protocol: str) -> list[Flow]:
    """The tracked connections of one protocol. Raises `HostError` where conntrack(8) is missing."""
    text = run([require("conntrack", "conntrack"), "-L", "-f", _FAMILY[family][1], "-p", protocol])
    return [flow for flow in (parse(family, line) for line in text.splitlines()) if flow is not None]


def parse(family: str, line: str) -> Flow | None:
    """A line of `conntrack -L`; None where it is none of a protocol with ports."""
    words = line.split()
    fields: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            fields.setdefault(key, []).append(value)
    if len(fields.get("src", ())) < 2 or len(fields.get("sport", ())) < 2:
        return None
    state = words[3] if len(words) > 3 and "=" not in words[3] and words[3].isupper() else ""
    return Flow(family, words[0], state, fields)


def delete(flows: Iterable[Flow]) -> None:
    """Let the kernel forget these; one that has ended meanwhile is as good. Raises `HostError`."""
    try:
        with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)) as kernel:
            for flow in flows:
                kernel.sendto(_deletion(flow), (0, 0))
                # The kernel answers before it returns.
                kind, error = struct.unpack_from("=4xH10xi", kernel.recv(4096))
                if kind != _NLMSG_ERROR or error not in (0, -_ENOENT):
                    raise HostError(f"conntrack: {os.strerror(-error)}")
    except OSError as error:
        raise HostError(f"conntrack: {error.strerror}") from error


def _deletion(flow: Flow) -> bytes:
    source, target = _ADDRESSES[flow.family]
    addresses = _attribute(source, _packed(flow.source)) + _attribute(target, _packed(flow.target))
    ports = _attribute(_PROTO_NUM, bytes([_PROTOCOL[flow.protocol]]))
    ports += _attribute(_PROTO_SRC_PORT, struct.pack("!H", flow.source_port))
    ports += _attribute(_PROTO_DST_PORT, struct.pack("!H", flow.target_port))
    connection = _attribute(_TUPLE_IP | _NLA_F_NESTED, addresses) + _attribute(_TUPLE_PROTO | _NLA_F_NESTED, ports)
    if flow.zone_orig:
        connection += _attribute(_TUPLE_ZONE, struct.pack("!H", flow.zone_orig))
    body = struct.pack("=BBH", _FAMILY[flow.family][0], 0, 0) + _attribute(_TUPLE_ORIG | _NLA_F_NESTED, connection)
    if flow.zone:
        body += _attribute(_ZONE, struct.pack("!H", flow.zone))
    return struct.pack("=IHHII", 16 + len(body), _DELETE, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0) + body


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
