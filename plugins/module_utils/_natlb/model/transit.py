# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets of others, where it was natlb that turned forwarding on: the host does not become a router for everybody.

Between the interfaces that there were then, nothing was forwarded before, so nothing but what is declared is forwarded
from then on. An interface that comes later (of Docker, of a VPN, of virtual machines) belongs to somebody who wants
its packets forwarded and has rules of their own: packets that come or go by it are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .entities import Egress

#: What a run may do with them.
CHOICES = ("drop", "accept")
#: A host may route multicast without forwarding unicast.
MULTICAST = {"ip": "224.0.0.0/4", "ip6": "ff00::/8"}


@dataclass(frozen=True)
class Closed:
    """The interfaces of one family when its forwarding was turned on. Those in `forwarding` forwarded already what came
    in by them; on a bridge in `bridges`, frames go from port to port past the router, and with br_netfilter through the
    same rules."""

    interfaces: tuple[str, ...]
    forwarding: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()


def dump(closed: Mapping[str, Closed]) -> dict[str, Any]:
    return {family: {key: list(value) for key, value in vars(item).items()} for family, item in closed.items()}


def parse(value: Any) -> dict[str, Closed]:
    """From a file that may be damaged: what cannot be read counts as not kept."""
    found = {}
    for family, item in value.items() if isinstance(value, Mapping) else ():
        if family in MULTICAST and isinstance(item, Mapping) and _names(item.get("interfaces")):
            found[family] = Closed(*(_names(item.get(key)) for key in ("interfaces", "forwarding", "bridges")))
    return found


def _names(value: Any) -> tuple[str, ...]:
    return tuple(name for name in value if _is_name(name)) if isinstance(value, list) else ()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 16 and value.isprintable() and not set(value) & set(' "/*\\;')


def ways(item: Egress) -> list[str]:
    """The interfaces by which an egress rule lets packets out; none where it names none."""
    if item.uplinks:
        return sorted({uplink.interface for uplink in item.uplinks})
    return [item.out_interface] if item.out_interface else []
