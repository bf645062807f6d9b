# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tracked connections that one backend answers: the kernel picks them out, however many others there are.

Since Linux 5.8 a dump may be asked for a source address and port of the answers (CTA_FILTER). An older kernel refuses
that, and everything is read.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import HostError
from . import netlink
from .flows import ADDRESSES, FAMILY, PROTOCOL
from .netlink import NESTED, attribute, attributes

# include/uapi/linux/netfilter/nfnetlink_conntrack.h and nf_conntrack_common.h of the kernel.
_GET, _DELETE = 1, 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _PROTOINFO, _ZONE, _FILTER, _STATUS_MASK = 1, 2, 3, 4, 18, 25, 26
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUM, _PROTO_SRC_PORT, _PROTO_DST_PORT = 1, 2, 3
_FILTER_ORIG, _FILTER_REPLY = 1, 2
#: Source address, number of the protocol, source port. An IPv6 address takes out just the entries that have it
#: (ctnetlink_filter_match_tuple in nf_conntrack_netlink.c, Linux 5.8 to 6.18 at least), so there the port has to do.
_BY_ADDRESS, _BY_PROTOCOL, _BY_PORT = 1 << 0, 1 << 3, 1 << 4
_SEEN_REPLY, _DESTINATION_NAT = 1 << 1, 1 << 5
_PROTOINFO_TCP, _TCP_STATE = 1, 1
#: nf_conntrack_tcp.h: SYN_SENT, SYN_RECV, and SYN_SENT2 of a simultaneous opening.
_TCP_OPENING = (1, 2, 9)
_TCP_ENDED = (4, 5, 6, 7, 8)


class Tracked(NamedTuple):
    """One connection. `target` is what the client connected to. `original` and `zone` are as the kernel takes them
    back, for a deletion."""

    family: str
    protocol: str
    target: tuple[str, int]
    answered: bool
    #: Its first packets are still on their way: no data has been exchanged.
    opening: bool
    #: Both ends are there, as far as the kernel knows.
    active: bool
    original: bytes
    zone: bytes


def of_backend(family: str, protocol: str, address: str, port: int | None) -> list[Tracked]:
    """The connections that were translated to this address and port; with None, to any port.

    Raises `HostError`.
    """
    wanted = _tuple(_TUPLE_REPLY, family, protocol, address, port or 0)
    by = _BY_PROTOCOL | (_BY_ADDRESS if family == "ip" else 0) | (0 if port is None else _BY_PORT)
    flags = attribute(_FILTER_ORIG, bytes(4)) + attribute(_FILTER_REPLY, struct.pack("=I", by))
    number = FAMILY[family][0]
    try:
        with netlink.netfilter() as kernel:
            try:
                found = kernel.dump(netlink.CONNTRACK, _GET, wanted + attribute(_FILTER | NESTED, flags), number)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                found = kernel.dump(netlink.CONNTRACK, _GET, b"", number)
    except OSError as error:
        raise HostError(f"conntrack: {error.strerror}") from error
    tracked = (_tracked(family, protocol, attributes(entry), address, port) for _family, entry in found)
    return [item for item in tracked if item is not None]


def unanswered(family: str) -> list[tuple[str, int, bytes]]:
    """Address and port of the backend, and what tells it from others, of each translated connection that has had no
    answer yet. Raises `HostError`."""
    mask = struct.pack("!I", _SEEN_REPLY | _DESTINATION_NAT)
    wanted = attribute(_STATUS, struct.pack("!I", _DESTINATION_NAT)) + attribute(_STATUS_MASK, mask)
    source = ADDRESSES[family][0]
    found = []
    try:
        with netlink.netfilter() as kernel:
            for _family, data in kernel.dump(netlink.CONNTRACK, _GET, wanted, FAMILY[family][0]):
                entry = attributes(data)
                status = int.from_bytes(entry.get(_STATUS, b""), "big")
                reply = attributes(entry.get(_TUPLE_REPLY, b""))
                port = attributes(reply.get(_TUPLE_PROTO, b"")).get(_PROTO_SRC_PORT)
                # A kernel before 5.15 tells of all.
                if port is not None and status & _DESTINATION_NAT and not status & _SEEN_REPLY:
                    address = ipaddress.ip_address(attributes(reply[_TUPLE_IP])[source])
                    found.append((str(address), int.from_bytes(port, "big"), entry.get(_TUPLE_ORIG, b"")))
    except OSError as error:
        raise HostError(f"conntrack: {error.strerror}") from error
    return found


def delete(connections: Iterable[Tracked]) -> int:
    """Let the kernel forget these, and return how many were still there. Raises `HostError`."""
    count = 0
    try:
        with netlink.netfilter() as kernel:
            for item in connections:
                body = attribute(_TUPLE_ORIG | NESTED, item.original)
                body += attribute(_ZONE, item.zone) if item.zone else b""
                try:
                    kernel.ask(netlink.CONNTRACK, _DELETE, FAMILY[item.family][0], body, netlink.ACKNOWLEDGE)
                except FileNotFoundError:
                    continue
                count += 1
    except OSError as error:
        raise HostError(f"conntrack: {error.strerror}") from error
    return count


def _tuple(kind: int, family: str, protocol: str, address: str, port: int) -> bytes:
    source, target = ADDRESSES[family]
    packed = ipaddress.ip_address(address).packed
    ips = attribute(source, packed) + attribute(target, bytes(len(packed)))
    ports = attribute(_PROTO_NUM, bytes([PROTOCOL[protocol]])) + attribute(_PROTO_SRC_PORT, struct.pack("!H", port))
    ports += attribute(_PROTO_DST_PORT, bytes(2))
    return attribute(kind | NESTED, attribute(_TUPLE_IP | NESTED, ips) + attribute(_TUPLE_PROTO | NESTED, ports))


def _tracked(family: str, protocol: str, entry: dict[int, bytes], address: str, port: int | None) -> Tracked | None:
    """None of another connection, which an older kernel tells of as well."""
    source, target = ADDRESSES[family]
    reply, original = attributes(entry.get(_TUPLE_REPLY, b"")), attributes(entry.get(_TUPLE_ORIG, b""))
    ways = attributes(reply.get(_TUPLE_PROTO, b""))
    answers = attributes(reply.get(_TUPLE_IP, b"")).get(source) == ipaddress.ip_address(address).packed
    at = ways.get(_PROTO_NUM) == bytes([PROTOCOL[protocol]])
    at = at and port in (None, int.from_bytes(ways.get(_PROTO_SRC_PORT, b""), "big"))
    status = int.from_bytes(entry.get(_STATUS, b""), "big")
    if not answers or not at or not status & _DESTINATION_NAT:
        return None
    to = attributes(original.get(_TUPLE_IP, b"")).get(target, b"")
    to_port = attributes(original.get(_TUPLE_PROTO, b"")).get(_PROTO_DST_PORT, b"")
    answered = bool(status & _SEEN_REPLY)
    state = attributes(attributes(entry.get(_PROTOINFO, b"")).get(_PROTOINFO_TCP, b"")).get(_TCP_STATE, b"\0")[0]
    opening = state in _TCP_OPENING if protocol == "tcp" else not answered
    return Tracked(
        family=family,
        protocol=protocol,
        target=(str(ipaddress.ip_address(to)), int.from_bytes(to_port, "big")),
        answered=answered,
        opening=opening,
        active=answered and not opening and not (protocol == "tcp" and state in _TCP_ENDED),
        original=entry.get(_TUPLE_ORIG, b""),
        zone=entry.get(_ZONE, b""),
    )
