# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Listening addresses that no packet will ever come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import parse


def address_warnings(listens: Mapping[str, str], local: set[str], connected: Sequence[str]) -> list[str]:
    """Warnings about listening addresses (address → service) that no host answers for.

    An address of a connected network that is not local gets no packets: nobody answers ARP or neighbour solicitations
    for it. One of another network may well be routed here, which cannot be seen from here.
    """
    networks = [parse.network(item, "network") for item in connected]
    found = []
    for address, service in listens.items():
        ip = parse.address(address, "listen")
        around = next((net for net in networks if net.version == ip.version and ip in net), None)
        if address not in local and around is not None:
            found.append(
                f"service {service}: {address} is in the connected network {around}, but no interface of this host has "
                f"it, so its packets do not come here; give it to an interface (a standby of a virtual address is fine)"
            )
    return found
