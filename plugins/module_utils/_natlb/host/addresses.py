# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses as numbers, as the C library reads them: for tens of thousands, objects of `ipaddress` take too long."""

from __future__ import annotations

import ipaddress
import socket


def number(address: str) -> tuple[int, int]:
    """The version and the number of an address. Raises `ValueError` where it is none."""
    version, family = (6, socket.AF_INET6) if ":" in address else (4, socket.AF_INET)
    try:
        return version, int.from_bytes(socket.inet_pton(family, address), "big")
    except OSError:
        # Of one with a zone, the C library does not read the number.
        parsed = ipaddress.ip_address(address)
        return parsed.version, int(parsed)
