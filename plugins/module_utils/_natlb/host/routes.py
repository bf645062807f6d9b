# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes of this host: its main routing tables, read from /proc without another process."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Union

from ..packets import Family
from . import addresses, proc
from .observation import observed

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# Flags of a route: linux/route.h and linux/ipv6_route.h.
_GATEWAY, _REJECT = 0x0002, 0x0200
_ADDRCONF, _ANYCAST, _LOCAL = 0x00040000, 0x00100000, 0x80000000
#: What /proc/net/route has for a device where there is none: `blackhole` has no flag there to be told by.
_NO_DEVICE = "*"


class Route(NamedTuple):
    """`interface` is empty if the route refuses or drops packets (`unreachable`, `prohibit`, `blackhole`).

    `direct`: the hosts of the network are reached without a gateway. `advertised`: the kernel itself learned it by a
    router advertisement.
    """

    network: Network
    interface: str
    direct: bool
    advertised: bool = False


def parse_ipv4(text: str) -> list[Route]:
    """The routes of /proc/net/route."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7:
            address, mask = (socket.inet_ntoa(struct.pack("=I", int(fields[i], 16))) for i in (1, 7))
            flags = int(fields[3], 16)
            refuses = fields[0] == _NO_DEVICE or flags & _REJECT
            network = ipaddress.IPv4Network(f"{address}/{mask}", strict=False)
            direct = not refuses and not flags & _GATEWAY and fields[0] != "lo" and network.prefixlen > 0
            found.append(Route(network, "" if refuses else fields[0], direct))
    return found


def parse_ipv6(text: str) -> list[Route]:
    """The routes of /proc/net/ipv6_route, but for those of multicast and of the host itself."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 10 or fields[0].startswith("ff"):
            continue
        flags, refuses = int(fields[8], 16), int(fields[8], 16) & _REJECT
        if fields[9] == "lo" and not refuses:
            continue
        network = ipaddress.IPv6Network((bytes.fromhex(fields[0]), int(fields[1], 16)), strict=False)
        local = flags & (_LOCAL | _ANYCAST) or network.is_link_local
        direct = not refuses and not local and not flags & _GATEWAY and network.prefixlen > 0
        found.append(Route(network, "" if refuses else fields[9], direct, bool(flags & _ADDRCONF)))
    return found


@observed
def read(family: Family) -> list[Route]:
    """The routes of one family on this host."""
    if family == "ip6":
        return parse_ipv6(proc.read("/proc/thread-self/net/ipv6_route"))
    return parse_ipv4(proc.read("/proc/thread-self/net/route"))


class Routes:
    """The routes of both families, read when they are first asked for: a router of the internet has a million."""

    def __init__(self, ipv4: str | None = None, ipv6: str | None = None) -> None:
        """With texts instead of what this host's /proc says."""
        self._texts = (ipv4, ipv6)

    @cached_property
    def all(self) -> list[Route]:
        """Every IPv6 host has an `unreachable default` that comes after all others of its length."""
        ipv4, ipv6 = self._texts
        found = read("ip") if ipv4 is None else parse_ipv4(ipv4)
        found = [*found, *(read("ip6") if ipv6 is None else parse_ipv6(ipv6))]
        return sorted(found, key=lambda route: not route.interface)

    @cached_property
    def connected(self) -> list[str]:
        """The networks that this host reaches without a gateway, loopback and link-local ones left out."""
        return sorted({str(route.network) for route in self.all if route.direct})

    @cached_property
    def ways(self) -> list[tuple[Network, str]]:
        """(network, interface) of each route, an empty interface where it leads nowhere; the most specific one that
        fits an address counts, the first of equals."""
        return [(route.network, route.interface) for route in self.all]


class Ways:
    """The interface by which an address is reached. Tables may hold a million routes, declarations many addresses."""

    def __init__(self, ways: Sequence[tuple[Network, str]]) -> None:
        """As `Routes.ways` has them."""
        found: dict[tuple[int, int], dict[int, str]] = {}
        for network, interface in ways:
            shift = network.max_prefixlen - network.prefixlen
            found.setdefault((shift, network.version), {}).setdefault(int(network.network_address) >> shift, interface)
        #: The longest prefixes first.
        self._networks = sorted(found.items())

    def interface(self, address: str) -> str:
        """Empty where no route leads there."""
        version, number = addresses.number(address)
        for (shift, its_version), known in self._networks:
            interface = known.get(number >> shift) if its_version == version else None
            if interface is not None:
                return interface
        return ""
