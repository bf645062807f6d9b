# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the options of a run may be."""

from __future__ import annotations

from typing import Literal

#: `auto` leaves the engine to the host.
RequestedEngine = Literal["auto", "nftables", "iptables"]
ENGINES: tuple[RequestedEngine, ...] = ("auto", "nftables", "iptables")

#: What `auto` comes to.
EngineName = Literal["nftables", "iptables"]

#: Of the programs of iptables.
Variant = Literal["nft", "legacy"]
VARIANTS: tuple[Variant, ...] = ("nft", "legacy")

#: Where another firewall denies our connections: only say so, or make a way through as well.
Firewall = Literal["warn", "accept"]
FIREWALL: tuple[Firewall, ...] = ("warn", "accept")

#: What becomes of packets that could not pass this host before its forwarding was turned on.
Transit = Literal["drop", "accept"]
TRANSIT: tuple[Transit, ...] = ("drop", "accept")

#: `absent` removes all that is ours.
RunState = Literal["present", "absent"]
STATES: tuple[RunState, ...] = ("present", "absent")
