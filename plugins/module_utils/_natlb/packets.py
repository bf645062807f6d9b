# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The families of addresses and the protocols of the packets that are balanced, as nft names them. Every wing may
import it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

Family = Literal["ip", "ip6"]
FAMILIES: tuple[Family, ...] = ("ip", "ip6")
Protocol = Literal["tcp", "udp", "sctp"]
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")


def family_of(address: str) -> Family:
    """Of an address or a network in its canonical spelling."""
    return "ip6" if ":" in address else "ip"


def in_order(families: Collection[str]) -> tuple[Family, ...]:
    """Those of these names, IPv4 first."""
    return tuple([family for family in FAMILIES if family in families])


def family_name(family: Family) -> str:
    """For people."""
    return "IPv6" if family == "ip6" else "IPv4"


def family_named(name: str) -> Family:
    """From a text that has one. Raises `ValueError`."""
    for family in FAMILIES:
        if family == name:
            return family
    raise ValueError(f"{name!r} is no family")


def protocol_named(name: str) -> Protocol:
    """The same of a protocol."""
    for protocol in PROTOCOLS:
        if protocol == name:
            return protocol
    raise ValueError(f"{name!r} is no protocol that is balanced")
