# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transit traffic, if natlb turned forwarding on: the host does not become a router for all traffic.

Nothing was forwarded before between the interfaces that existed then. So only declared traffic is forwarded between
them from then on. An interface that is added later (of Docker, of a VPN, of virtual machines) has an owner who wants
its packets forwarded, with rules of their own: its packets are left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..packets import FAMILIES, Family, family_named

#: A host may route multicast without forwarding unicast.
MULTICAST: dict[Family, str] = {"ip": "224.0.0.0/4", "ip6": "ff00::/8"}


@dataclass(frozen=True)
class Closed:
    """The interfaces of one family when its forwarding was turned on. Those in `forwarding` forwarded already what came
    in by them; on a bridge in `bridges`, frames go from port to port past the router, and with br_netfilter through the
    same rules."""

    interfaces: tuple[str, ...]
    forwarding: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()


def dump(closed: Mapping[Family, Closed]) -> dict[str, Any]:
    return {family: {key: list(value) for key, value in vars(item).items()} for family, item in closed.items()}


def parse(value: Any) -> dict[Family, Closed]:
    """From a file that may be damaged: unreadable entries are ignored."""
    found = {}
    for name, item in value.items() if isinstance(value, Mapping) else ():
        if name in FAMILIES and isinstance(item, Mapping) and _names(item.get("interfaces")):
            found[family_named(name)] = Closed(
                *(_names(item.get(key)) for key in ("interfaces", "forwarding", "bridges"))
            )
    return found


def _names(value: Any) -> tuple[str, ...]:
    return tuple(name for name in value if _is_name(name)) if isinstance(value, list) else ()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 16 and value.isprintable() and not set(value) & set(' "/*\\;')
