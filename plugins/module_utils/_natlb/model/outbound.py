# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a balancer does with connections from the networks behind it, as typed values.

`egress.py` makes them from what a user typed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..packets import Family, Protocol, family_of, in_order
from .ranges import Range
from .spelling import is_everything, ports_text

#: How the source of what comes from networks behind the balancer is translated.
EgressSnat = Literal["masquerade", "none", "address"]
MAX_UPLINK_WEIGHT_SUM = 1024
#: Connection mark bits that outbound balancing over uplinks uses unless told otherwise. Kubernetes takes bits 14 and
#: 15, Tailscale 16 to 23, Docker none: 24 to 29 are seldom taken, and hold 63 uplinks.
DEFAULT_MARK_MASK = 0x3F000000
#: At most so many ways out, since each has a routing table and a rule of its own (`routing.py`).
MAX_UPLINKS = 4095


@dataclass(frozen=True)
class Uplink:
    """A way out of one family. `gateway` is None where the interface itself leads to the other end (WireGuard, PPP)."""

    family: Family
    interface: str
    gateway: str | None
    weight: int

    @property
    def key(self) -> tuple[str, str, str]:
        """Its identity, in the order in which uplinks are numbered."""
        return self.interface, self.gateway or "", self.family


@dataclass(frozen=True)
class Egress:
    """Source NAT for networks behind the balancer. `snat` is `masquerade`, `address`, or `none` for an exception.

    `destinations` are empty where it goes for every one. `snat_ports` are the source ports to take where not any will
    do.
    """

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    out_interface: str | None
    protocol: Protocol | None
    ports: tuple[tuple[int, int], ...]
    snat: EgressSnat
    snat_address: str | None
    snat_ports: Range | None
    uplinks: tuple[Uplink, ...]

    def families(self) -> tuple[Family, ...]:
        return in_order({family_of(source) for source in self.sources})

    def everything(self, family: Family) -> bool:
        """Whether it speaks of every source of a family, and so of none in particular."""
        return any(is_everything(source) for source in self.sources_of(family))

    def sources_of(self, family: Family) -> tuple[str, ...]:
        return tuple(source for source in self.sources if family_of(source) == family)

    def spared(self, family: Family) -> tuple[str, ...]:
        """The networks whose connections among each other it leaves alone: the sources, unless it says itself to which
        destinations it applies, or translates nothing."""
        named = self.everything(family) or self.destinations or self.snat == "none"
        return () if named else self.sources_of(family)

    def destinations_of(self, family: Family) -> tuple[str, ...]:
        return tuple(network for network in self.destinations if family_of(network) == family)

    def ways(self) -> list[str]:
        """The interfaces by which it lets packets out; none where it names none."""
        if self.uplinks:
            return sorted({uplink.interface for uplink in self.uplinks})
        return [self.out_interface] if self.out_interface else []


def mark_value(mask: int, index: int) -> int:
    """The mark of the uplink at `index` (from 0) within `mask`; 0 means none was chosen yet."""
    return (index + 1) * (mask & -mask)


def dump_egress(egress: Egress) -> dict[str, Any]:
    """It with every key, as JSON has it."""
    return {
        "source": list(egress.sources),
        "destination": list(egress.destinations),
        "out_interface": egress.out_interface,
        "protocol": egress.protocol,
        "destination_ports": [ports_text(low, high) for low, high in egress.ports],
        "snat": egress.snat_address or egress.snat,
        "snat_ports": None if egress.snat_ports is None else ports_text(*egress.snat_ports),
        "uplinks": [
            {"interface": uplink.interface, "gateway": uplink.gateway, "weight": uplink.weight}
            for uplink in egress.uplinks
        ],
    }
