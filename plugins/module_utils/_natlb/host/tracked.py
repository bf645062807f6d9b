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
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..errors import HostError
from ..packets import Family, Protocol
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
_PROTOINFO_TCP, _TCP_STATE, _TCP_FLAGS_ORIGINAL = 1, 1, 4
#: nf_conntrack_tcp.h: SYN_SENT, SYN_RECV, and SYN_SENT2 of a simultaneous opening.
_TCP_OPENING = (1, 2, 9)
_NUMBERED = {bytes([number]): name for name, number in PROTOCOL.items()}
#: FIN_WAIT and CLOSE_WAIT: one end has sent its last, and the other one has not. LAST_ACK, TIME_WAIT and CLOSE.
_TCP_HALF_CLOSED, _TCP_ENDED = (4, 5), (6, 7, 8)
#: IP_CT_TCP_FLAG_CLOSE_INIT of nf_conntrack_tcp.h: this end was the first to do so.
_TCP_CLOSED_FIRST = 0x04


class Tracked(NamedTuple):
    """One connection. `client` is where it began, `target` what it connected to, and `backend` who is to answer, the
    last two with their ports. `original` and `zone` are as the kernel takes them back, for a deletion."""

    family: Family
    protocol: Protocol
    client: str
    target: tuple[str, int]
    backend: tuple[str, int]
    #: Whether its destination is another one than the client's.
    translated: bool
    answered: bool
    #: Its first packets are still on their way: no data has been exchanged.
    opening: bool
    #: Both ends are there, as far as the kernel knows. A client that has sent its last waits for the answer.
    active: bool
    original: bytes
    zone: bytes
    #: The address and port by which the backend knows the client.
    seen_by: tuple[str, int] = ("", 0)


def of_backend(family: Family, protocol: Protocol, address: str, port: int | None) -> list[Tracked]:
    """The connections that were translated to this address and port; with None, to any port.

    Raises `HostError`.
    """
    found = _dumped(_TUPLE_REPLY, family, protocol, address, port)
    answerer = str(ipaddress.ip_address(address))
    return [
        item
        for item in found
        if (item.translated, item.protocol, item.backend[0]) == (True, protocol, answerer)
        and port in (None, item.backend[1])
    ]


def of_client(family: Family, protocol: Protocol, address: str) -> list[Tracked]:
    """The connections that began at this address. Raises `HostError`."""
    client = str(ipaddress.ip_address(address))
    found = _dumped(_TUPLE_ORIG, family, protocol, address, None)
    return [item for item in found if (item.protocol, item.client) == (protocol, client)]


def _dumped(kind: int, family: Family, protocol: Protocol, address: str, port: int | None) -> list[Tracked]:
    """The connections whose packets of one direction come from there; as the kernel can tell, so others as well."""
    wanted = _tuple(kind, family, protocol, address, port or 0)
    by = _BY_PROTOCOL | (_BY_ADDRESS if family == "ip" else 0) | (0 if port is None else _BY_PORT)
    orig, reply = (by, 0) if kind == _TUPLE_ORIG else (0, by)
    flags = attribute(_FILTER_ORIG, struct.pack("=I", orig)) + attribute(_FILTER_REPLY, struct.pack("=I", reply))
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
    tracked = (_tracked(family, attributes(entry)) for _family, entry in found)
    return [item for item in tracked if item]


def unanswered(translated: bool = True) -> list[Tracked]:
    """Connections that have had no answer yet, of those that were translated to a backend or of those that were not.

    Raises `HostError`. All families are asked about at once: each question walks through the whole table.
    """
    status = _DESTINATION_NAT if translated else 0
    found = _of_status(None, _SEEN_REPLY | _DESTINATION_NAT, status)
    # A kernel before 5.15 tells of all.
    return [item for item in found if not item.answered and item.translated == translated]


def translated(family: Family) -> Iterator[Tracked]:
    """All connections that were translated to a backend. Raises `HostError`."""
    return (item for item in _of_status(family, _DESTINATION_NAT, _DESTINATION_NAT) if item.translated)


def _of_status(family: Family | None, mask: int, status: int) -> Iterator[Tracked]:
    wanted = attribute(_STATUS, struct.pack("!I", status)) + attribute(_STATUS_MASK, struct.pack("!I", mask))
    try:
        with netlink.netfilter() as kernel:
            found = kernel.dump(netlink.CONNTRACK, _GET, wanted, FAMILY[family][0] if family else 0)
    except OSError as error:
        raise HostError(f"conntrack: {error.strerror}") from error
    told = ((_NAMES[number], attributes(entry)) for number, entry in found if number in _NAMES)
    return (item for name, entry in told for item in [_tracked(name, entry)] if item)


#: Families by their numbers.
_NAMES = {int(number): family for family, (number, _word) in FAMILY.items()}


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


def _tuple(kind: int, family: Family, protocol: Protocol, address: str, port: int) -> bytes:
    source, target = ADDRESSES[family]
    packed = ipaddress.ip_address(address).packed
    ips = attribute(source, packed) + attribute(target, bytes(len(packed)))
    ports = attribute(_PROTO_NUM, bytes([PROTOCOL[protocol]])) + attribute(_PROTO_SRC_PORT, struct.pack("!H", port))
    ports += attribute(_PROTO_DST_PORT, bytes(2))
    return attribute(kind | NESTED, attribute(_TUPLE_IP | NESTED, ips) + attribute(_TUPLE_PROTO | NESTED, ports))


def _tracked(family: Family, entry: dict[int, bytes]) -> Tracked | None:
    """None of a protocol without ports."""
    source, target = ADDRESSES[family]
    reply, original = attributes(entry.get(_TUPLE_REPLY, b"")), attributes(entry.get(_TUPLE_ORIG, b""))
    ways, to = attributes(reply.get(_TUPLE_PROTO, b"")), attributes(original.get(_TUPLE_PROTO, b""))
    protocol = _NUMBERED.get(ways.get(_PROTO_NUM, b""))
    if protocol is None or _PROTO_SRC_PORT not in ways:
        return None
    status = int.from_bytes(entry.get(_STATUS, b""), "big")
    answered = bool(status & _SEEN_REPLY)
    tcp = attributes(attributes(entry.get(_PROTOINFO, b"")).get(_PROTOINFO_TCP, b""))
    state = tcp.get(_TCP_STATE, b"\0")[0]
    answers = state in _TCP_HALF_CLOSED and bool(tcp.get(_TCP_FLAGS_ORIGINAL, b"\0")[0] & _TCP_CLOSED_FIRST)
    ended = state in _TCP_ENDED or (state in _TCP_HALF_CLOSED and not answers)
    opening = state in _TCP_OPENING if protocol == "tcp" else not answered
    return Tracked(
        family=family,
        protocol=protocol,
        client=str(ipaddress.ip_address(attributes(original[_TUPLE_IP])[source])),
        target=_peer(attributes(original[_TUPLE_IP])[target], to[_PROTO_DST_PORT]),
        backend=_peer(attributes(reply[_TUPLE_IP])[source], ways[_PROTO_SRC_PORT]),
        translated=bool(status & _DESTINATION_NAT),
        answered=answered,
        opening=opening,
        active=answered and not opening and not (protocol == "tcp" and ended),
        original=entry.get(_TUPLE_ORIG, b""),
        zone=entry.get(_ZONE, b""),
        seen_by=_peer(attributes(reply[_TUPLE_IP])[target], ways[_PROTO_DST_PORT]),
    )


def _peer(address: bytes, port: bytes) -> tuple[str, int]:
    return str(ipaddress.ip_address(address)), int.from_bytes(port, "big")
