# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Helpers of connection tracking: readers of protocols that agree on further connections. Pure.

What a client and a backend tell each other has addresses and ports in it. A helper translates them, and lets the
kernel expect the connections that they announce, which go to the same backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .entities import Service

Helper = Literal["ftp", "tftp", "sip"]
HELPERS: tuple[Helper, ...] = ("ftp", "tftp", "sip")
#: What the kernel has each of them for.
PROTOCOLS_OF: dict[Helper, tuple[str, ...]] = {"ftp": ("tcp",), "tftp": ("udp",), "sip": ("tcp", "udp")}


def module(helper: str) -> str:
    """The module of the kernel that translates what a helper reads. The kernel loads the reader by itself, and this one
    never."""
    return f"nf_nat_{helper}"


def modules(services: Iterable[Service]) -> list[str]:
    """The same for all helpers of these services."""
    return sorted({module(service.helper) for service in services if service.helper})
