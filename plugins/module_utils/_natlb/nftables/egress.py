# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source NAT of the networks behind the balancer, and the choice of their way out, as rules of nftables."""

from __future__ import annotations

from collections.abc import Sequence

from ..model.entities import Config
from ..model.outbound import Egress, mark_value
from ..model.shadowing import shadowed
from ..model.slots import interleave
from ..model.spelling import ports_text
from ..packets import PROTOCOLS
from .table import Table, plain
from .text import Lines


class EgressRules:
    """What one family's table has for egress: `choice` goes to prerouting, `source_nat` to postrouting."""

    def __init__(self, table: Table, config: Config, egress: Sequence[Egress]) -> None:
        self._table = table
        self._config = config
        self._used: set[int] = set()
        self.choice: Lines = []
        self.source_nat: Lines = []
        for number, item in enumerate(egress):
            self._add(number, item)
        if not self._used:
            self.choice = []

    def _add(self, number: int, item: Egress) -> None:
        match = self._match(item)
        if not item.uplinks:
            out = f'oifname "{item.out_interface}" ' if item.out_interface else ""
            self._translate(item, f"{match}{out}")
            if item.snat == "none" and not out:
                # Nor does it take another way.
                self.choice.append(f"{match}return")
            return
        uplinks = {uplink.key: index for index, uplink in enumerate(self._config.uplinks())}
        names = ", ".join(sorted({f'"{uplink.interface}"' for uplink in item.uplinks}))
        self._translate(item, f"{match}oifname {{ {names} }} ")
        ring = interleave([uplink.weight for uplink in item.uplinks])
        chosen = [uplinks[item.uplinks[i].key] for i in ring]
        entries = ", ".join(f"{slot} : goto {self._uplink_chain(index)}" for slot, index in enumerate(chosen))
        name = self._table.chain(f"uplinks.{number}", [f"numgen inc mod {len(chosen)} vmap {{ {entries} }}"])
        # One that came in by an uplink leaves by it, whoever its sender is.
        unmarked = f"ct mark & {self._config.mark_mask:#010x} == 0x00000000 "
        self.choice.append(f"{match}{unmarked}fib daddr type != local goto {name}")

    def _translate(self, item: Egress, match: str) -> None:
        if item.snat == "none":
            self.source_nat.append(f"{match}return")
            return
        family = self._table.family
        address = f"[{item.snat_address}]" if family == "ip6" else item.snat_address
        to_ports = f"snat {family} to {address}" if item.snat_address else "masquerade to "
        for protocol, ports, instead in shadowed(self._config.services, family, item):
            which = ", ".join(ports_text(*each) for each in ports)
            self.source_nat.append(f"{match}{protocol} sport {{ {which} }} {to_ports}:{ports_text(*instead)}")
        if item.snat_ports:
            protocols = [""] if item.protocol else [f"meta l4proto {protocol} " for protocol in PROTOCOLS]
            self.source_nat += [f"{match}{each}{to_ports}:{ports_text(*item.snat_ports)}" for each in protocols]
        if item.snat_ports and item.protocol:
            return
        nat = f"snat {family} to {item.snat_address}" if item.snat_address else "masquerade"
        self.source_nat.append(f"{match}{nat}")

    def _match(self, item: Egress) -> str:
        family = self._table.family
        sources = ", ".join(plain(source) for source in item.sources_of(family))
        match = "" if item.everything(family) else f"{family} saddr {{ {sources} }} "
        if item.spared(family):
            match += f"{family} daddr != {{ {sources} }} "
        if item.destinations:
            match += f"{family} daddr {{ {', '.join(map(plain, item.destinations_of(family)))} }} "
        if item.protocol and item.ports:
            ports = ", ".join(ports_text(low, high) for low, high in item.ports)
            match += f"{item.protocol} dport {{ {ports} }} "
        elif item.protocol:
            match += f"meta l4proto {item.protocol} "
        return match

    def _uplink_chain(self, index: int) -> str:
        self._used.add(index)
        return self._table.chain(
            f"uplink.{index}", [f"{self._mark('ct mark', index)} {self._mark('meta mark', index)}"]
        )

    def _mark(self, field: str, index: int) -> str:
        mask = self._config.mark_mask
        return f"{field} set {field} & {mask ^ 0xFFFFFFFF:#010x} | {mark_value(mask, index):#010x}"

    def add_base_chains(self) -> None:
        """What gives each packet of a connection the mark of the connection's uplink."""
        if not self.choice:
            return
        came, restored = self._arrivals(), self._restore_marks()
        self._table.base("uplinks", "type filter hook prerouting priority -150; policy accept;", [*came, restored])
        # Of this type a changed mark changes the way of the host's own answers.
        self._table.base("uplinks_output", "type route hook output priority -150; policy accept;", [restored])

    def _arrivals(self) -> Lines:
        """A connection leaves by the uplink by which it came in. Where two share an interface, that cannot be told."""
        entries = [
            f'"{interface}" : goto {self._uplink_chain(index)}'
            for interface, index in self._config.arrivals(self._table.family).items()
        ]
        new = f"ct state new ct mark & {self._config.mark_mask:#010x} == 0x00000000"
        return [f"{new} iifname vmap {{ {', '.join(entries)} }}"] if entries else []

    def _restore_marks(self) -> str:
        """Every packet of a connection gets the mark of the way that its first one chose."""
        mask = self._config.mark_mask
        entries = []
        for index in sorted(self._used):
            name = self._table.chain(f"mark.{index}", [self._mark("meta mark", index)])
            entries.append(f"{mark_value(mask, index):#010x} : goto {name}")
        return f"ct mark & {mask:#010x} vmap {{ {', '.join(entries)} }}"
