# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several frontends takes a packet: the most specific one.

An address comes before `*`, then one interface before any, then fewer ports before more. Sockets of Linux are found in
the first two steps the same way (`__inet_lookup_listener` and `compute_score` in net/ipv4/inet_hashtables.c).

So of the frontends on an address one takes each packet, whether or not that address is this host's own; only then `*`
is asked about. And what a connection's original destination shows, the address, decides before what it does not show,
the interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .entities import Frontend, is_wild


class Packet(NamedTuple):
    """A first packet. `local`: its destination is an address of this host; `interface` is None where this host sent
    it."""

    family: str
    protocol: str
    address: str
    port: int
    local: bool
    interface: str | None


def rank(frontend: Frontend) -> tuple[bool, bool, int]:
    """The greater, the more specific. Of two that are alike no packet is for both: that is a conflict."""
    return frontend.address is not None, frontend.interface is not None, frontend.low - frontend.high


def takes(frontend: Frontend, packet: Packet) -> bool:
    """Whether it would, if there were no other."""
    here = packet.local and is_wild(packet.address) if frontend.address is None else frontend.address == packet.address
    return (
        here
        and (frontend.family, frontend.protocol) == (packet.family, packet.protocol)
        and frontend.low <= packet.port <= frontend.high
        and frontend.interface in (None, packet.interface)
    )


def winner(frontends: Iterable[Frontend], packet: Packet) -> Frontend | None:
    """The frontend that takes a packet; None where none does."""
    return max((item for item in frontends if takes(item, packet)), key=rank, default=None)


def possible(frontends: Iterable[Frontend]) -> Iterator[Frontend]:
    """Of frontends that would all take a packet on some interface those that do, the most specific first: one for each
    interface, as far as there is none of any interface before it."""
    ways: set[str | None] = set()
    for frontend in sorted(frontends, key=rank, reverse=True):
        if None not in ways and frontend.interface not in ways:
            ways.add(frontend.interface)
            yield frontend
