# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that routes multicast, as a routing daemon makes the kernel do it; a sender, and a listener.

The structures are those of linux/mroute.h.
"""

from __future__ import annotations

import socket
import struct

GROUP, PORT = "239.1.2.3", 5000
TIMEOUT_S = 3.0
_MRT_INIT, _MRT_ADD_VIF, _MRT_ADD_MFC = 200, 202, 204
_USE_IFINDEX = 8
_VIFS = 32
#: The kernel routes multicast for as long as the router's socket is open.
_open: dict[str, socket.socket] = {}


def route(source: str, came_by: str, leaves_by: str) -> None:
    """Packets of `source` to the group are forwarded from one interface to the other."""
    router = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    router.setsockopt(socket.IPPROTO_IP, _MRT_INIT, 1)
    for number, name in enumerate((came_by, leaves_by)):
        vif = struct.pack("=HBBIi4x", number, _USE_IFINDEX, 1, 0, socket.if_nametoindex(name))
        router.setsockopt(socket.IPPROTO_IP, _MRT_ADD_VIF, vif)
    # The lowest TTL that leaves by each interface; 0: none does.
    ttls = bytes([0, 1]).ljust(_VIFS, b"\0")
    entry = struct.pack("=4s4sH32s2x12xi", socket.inet_aton(source), socket.inet_aton(GROUP), 0, ttls, 0)
    router.setsockopt(socket.IPPROTO_IP, _MRT_ADD_MFC, entry)
    _open["router"] = router


def listen(address: str) -> None:
    """Join the group by the interface that has the address."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind((GROUP, PORT))
    joined = socket.inet_aton(GROUP) + socket.inet_aton(address)
    listener.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
    listener.settimeout(TIMEOUT_S)
    _open["listener"] = listener


def send(address: str) -> None:
    """One packet, by the interface that has the address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        sender.sendto(b"hello", (GROUP, PORT))


def received() -> str:
    """From whom the next packet came; empty where none does."""
    try:
        return str(_open["listener"].recvfrom(64)[1][0])
    except TimeoutError:
        return ""


def close() -> None:
    while _open:
        _open.popitem()[1].close()
