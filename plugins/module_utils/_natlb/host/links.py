# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network interfaces of this host.

They are read with `ip`, since /sys shows the namespace in which it was mounted.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
from typing import NamedTuple

from ..errors import HostError
from . import processes
from .observation import observed

#: linux/sockios.h and linux/if.h.
_SIOCGIFFLAGS, _SIOCGIFMTU, _IFF_UP = 0x8913, 0x8921, 1


class Link(NamedTuple):
    """`kind` is bridge, veth, vlan and the like; `port_of` the kind of the `master` that the link is a part of."""

    name: str
    kind: str = ""
    master: str = ""
    port_of: str = ""
    #: Of the port of a bridge: frames may go back where they came from.
    hairpin: bool = False


@observed
def read() -> list[Link]:
    """Every link of this network namespace."""
    printed = processes.run([processes.require("ip", "iproute2"), "-json", "-details", "link", "show"])
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


def bridges(known: bool) -> list[str]:
    """The bridges of this host; none where ip(8) is not there to say so (`known`)."""
    return [link.name for link in read() if link.kind == "bridge"] if known else []


@observed
def names() -> list[str]:
    """The interfaces of this network namespace, but for lo."""
    return sorted(name for _unused, name in socket.if_nameindex() if name != "lo")


@observed
def is_up(name: str) -> bool:
    """Whether the interface is there and turned on, with a carrier or without; netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
        except OSError:
            return False
    return bool(struct.unpack("16sH14x", answer)[1] & _IFF_UP)


@observed
def bridge_ports(bridge: str) -> dict[str, str]:
    """The port of a bridge by which each neighbour was seen last, by address; empty if this cannot be read."""
    try:
        neighbours = _shown("ip", "-json", "neigh", "show", "dev", bridge)
        entries = _shown("bridge", "-json", "fdb", "show", "br", bridge)
    except HostError:
        return {}
    ports = {entry.get("mac"): entry.get("ifname", "") for entry in entries if entry.get("state") != "permanent"}
    return {item["dst"]: ports[item["lladdr"]] for item in neighbours if item.get("lladdr") in ports}


def _shown(program: str, *words: str) -> list[dict[str, str]]:
    text = processes.run([processes.require(program, "iproute2"), *words])
    return [item for item in json.loads(text or "[]") if item]


@observed
def mtu(name: str) -> int:
    """The largest packet that the interface takes, in bytes; 0 where it is not there. See netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFMTU, struct.pack("16si12x", name.encode(), 0))
        except OSError:
            return 0
    return int(struct.unpack("16si12x", answer)[1])
