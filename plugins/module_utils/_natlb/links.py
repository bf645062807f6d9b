# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network interfaces of this host, and what a declaration that names them meets.

Read by `ip`, not from /sys: that shows the namespace in which it was mounted.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from . import kernel
from .entities import Config, Uplink
from .routes import Routes

#: So many names are offered in place of one that does not exist.
_OFFERED = 5
#: linux/sockios.h and linux/if.h.
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 1


class Link(NamedTuple):
    """`kind` is bridge, veth, vlan and the like; `port_of` the kind of the `master` that the link is a part of."""

    name: str
    kind: str = ""
    master: str = ""
    port_of: str = ""
    #: Of the port of a bridge: frames may go back where they came from.
    hairpin: bool = False


def read() -> list[Link]:
    """Every link of this network namespace."""
    printed = kernel.run([kernel.require("ip", "iproute2"), "-json", "-details", "link", "show"])
    return parse(printed)


def parse(printed: str) -> list[Link]:
    """Links from `ip -json -details link show`."""
    found = []
    for item in json.loads(printed) if printed.strip() else []:
        info = item.get("linkinfo", {})
        if "ifname" in item:
            found.append(
                Link(
                    name=item["ifname"],
                    kind=info.get("info_kind", ""),
                    master=item.get("master", ""),
                    port_of=info.get("info_slave_kind", ""),
                    hairpin=bool(info.get("info_slave_data", {}).get("hairpin", False)),
                )
            )
    return found


def warnings(config: Config, links: Sequence[Link]) -> list[str]:
    """About interfaces that a declaration names and by which no packet of its will come or go."""
    known = {link.name: link for link in links}
    found = []
    for owner, name, is_way_in in named(config):
        link = known.get(name)
        what = "no connection comes in by it" if is_way_in else "nothing leaves by it"
        if link is None:
            found.append(f"{owner}: this host has no interface {name}, so {what}; it has {_offered(name, links)}")
        elif link.master and link.port_of != "vrf":
            # Of a VRF the netfilter hooks see the port first (drivers/net/vrf.c).
            found.append(
                f"{owner}: {name} is a port of the {link.port_of or 'device'} {link.master}, so {what}; "
                f"write {link.master}"
            )
    return found


def named(config: Config) -> Iterator[tuple[str, str, bool]]:
    """(whose, interface, whether it is a way in) of every interface that is declared, each once for its owner."""
    seen: dict[tuple[str, str, bool], None] = {}
    for service in config.services:
        if service.interface:
            seen[f"service {service.name}", service.interface, True] = None
    for item in config.egress:
        for name in [item.out_interface, *(uplink.interface for uplink in item.uplinks)]:
            if name:
                seen[f"egress of {item.sources[0]}", name, False] = None
    yield from seen


def bridges(known: bool) -> list[str]:
    """The bridges of this host; none where ip(8) is not there to say so (`known`)."""
    return [link.name for link in read() if link.kind == "bridge"] if known else []


def is_up(name: str) -> bool:
    """Whether the interface is there and turned on, with a carrier or without; netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
        except OSError:
            return False
    return bool(struct.unpack("16sH14x", answer)[1] & _IFF_UP)


def idle(uplinks: Iterable[Uplink], table: Routes) -> dict[Uplink, str]:
    """The uplinks that cannot have a route now, and why."""
    found = {}
    for uplink in uplinks:
        if not is_up(uplink.interface):
            found[uplink] = f"{uplink.interface} is not there, or is down"
        elif uplink.gateway and not _reaches(table, uplink.interface, uplink.gateway):
            found[uplink] = f"{uplink.interface} is in no network that has {uplink.gateway}"
    return found


def _reaches(table: Routes, interface: str, gateway: str) -> bool:
    address = ipaddress.ip_address(gateway)
    return any(
        route.interface == interface and address in route.network and (route.direct or address.is_link_local)
        for route in table.all
        if route.network.version == address.version
    )


def idle_warnings(idle: Mapping[Uplink, str]) -> list[str]:
    return [
        f"uplink {uplink.interface}{f' via {uplink.gateway}' if uplink.gateway else ''}: {why}, so it has no route; "
        f"until it has one, its connections take the default route of the main table"
        for uplink, why in idle.items()
    ]


def _offered(name: str, links: Sequence[Link]) -> str:
    """The interfaces there are, nearest first."""
    names = sorted(
        (link.name for link in links if link.name != "lo"), key=lambda other: (-_likeness(name, other), other)
    )
    more = ", …" if len(names) > _OFFERED else ""
    return ", ".join(names[:_OFFERED]) + more if names else "none but lo"


def _likeness(name: str, other: str) -> float:
    return SequenceMatcher(None, name.lower(), other.lower()).ratio()
