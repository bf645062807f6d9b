# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words for address families and ports that all of the model shares. Pure."""

from __future__ import annotations

FAMILIES = ("ip", "ip6")


def family_of(address: str) -> str:
    """`ip` or `ip6`, of an address or a network in its canonical spelling."""
    return "ip6" if ":" in address else "ip"


def is_network(address: str | None) -> bool:
    """Whether a `listen` entry has a network in the place of an address."""
    return address is not None and "/" in address


def is_everything(network: str) -> bool:
    """Whether every address of its family is in a network in canonical spelling: `0.0.0.0/0` or `::/0`."""
    return network.endswith("/0")


def family_name(family: str) -> str:
    """For people."""
    return "IPv6" if family == "ip6" else "IPv4"


def ports_text(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
