# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router that makes itself known: router advertisements (RFC 4861, section 4.2), and one who waits for them."""

from __future__ import annotations

import ipaddress
import socket
import struct
import time

ALL_NODES = "ff02::1"
PREFIX = "2001:db8:77::"
_WAIT_S = 0.5


def advertise(link: str, lifetime_s: int = 1800) -> None:
    """One advertisement of a default router and of a prefix for addresses."""
    # Type 134, hop limit for others 64; the kernel fills the checksum in.
    head = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime_s, 0, 0)
    # On link, and for addresses of one's own making.
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + ipaddress.IPv6Address(PREFIX).packed
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        # RFC 4861, section 6.1.2: with any other hop limit it may have come from afar.
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(link))
        # The router itself would take an address of the prefix as well, and ask from there in later tests.
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        raw.sendto(head + prefix, (ALL_NODES, 0, 0, socket.if_nametoindex(link)))


def default_routes() -> list[str]:
    """The interfaces of the default routes that the kernel has learned."""
    with open("/proc/thread-self/net/ipv6_route", encoding="ascii") as file:
        lines = [line.split() for line in file]
    return [fields[9] for fields in lines if fields[1] == "00" and int(fields[8], 16) & 0x40000]


def heard(link: str) -> bool:
    """Whether a router makes itself known soon. The first advertisements may be lost while a link comes up."""
    give_up = time.monotonic() + _WAIT_S
    while link not in default_routes():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True
