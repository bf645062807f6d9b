# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How networks and ports of the model are spelled. Pure."""

from __future__ import annotations


def is_network(address: str | None) -> bool:
    """Whether a `listen` entry has a network in the place of an address."""
    return address is not None and "/" in address


def is_everything(network: str) -> bool:
    """Whether every address of its family is in a network in canonical spelling: `0.0.0.0/0` or `::/0`."""
    return network.endswith("/0")


def ports_text(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
