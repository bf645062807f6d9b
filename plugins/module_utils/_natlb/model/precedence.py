# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of several frontends takes a packet: the most specific one.

An address comes before `*`, and that before a network, of which the longest prefix is first; then one interface before
any, then fewer ports before more. Sockets of Linux are found the same way, as far as they have that
(`__inet_lookup_listener` and `compute_score` in net/ipv4/inet_hashtables.c).

So of the frontends on an address one takes each packet, whether or not that address is this host's own; only then `*`
is asked about, and then networks. And what a connection's original destination shows, the address, decides before what
it does not show, the interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..packets import Family, Protocol, family_of
from .entities import Frontend
from .left_to_the_host import NOT_IN_NETWORKS, is_wild
from .ranges import is_in


class Packet(NamedTuple):
    """A first packet. `local`: its destination is an address of this host; `interface` is None where this host sent
    it."""

    family: Family
    protocol: Protocol
    address: str
    port: int
    local: bool
    interface: str | None


#: What comes before every length of a prefix.
_ADDRESS, _LOCAL = 1000, 500


def rank(frontend: Frontend) -> tuple[int, bool, int]:
    """The greater, the more specific. Of two that are alike no packet is for both: that is a conflict."""
    where = _LOCAL if frontend.address is None else frontend.prefix_length if frontend.is_network else _ADDRESS
    return where, frontend.interface is not None, frontend.low - frontend.high


def takes(frontend: Frontend, packet: Packet) -> bool:
    """Whether it would, if there were no other."""
    return (
        (frontend.family, frontend.protocol) == (packet.family, packet.protocol)
        and frontend.low <= packet.port <= frontend.high
        and frontend.interface in (None, packet.interface)
        and _is_at(frontend, packet)
    )


def _is_at(frontend: Frontend, packet: Packet) -> bool:
    """Of what this host sends, a network has only what is for the host itself: its own connections to others, those of
    health checks among them, are no clients'."""
    if frontend.address is None:
        return packet.local and is_wild(packet.address)
    if not frontend.is_network:
        return frontend.address == packet.address
    return (packet.local or packet.interface is not None) and in_network(frontend.address, packet.address)


def in_network(network: str, address: str) -> bool:
    """Whether a frontend on a network has an address of its family."""
    left = NOT_IN_NETWORKS[family_of(address)]
    return is_in(network, address) and not any(is_in(other, address) for other in left)


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
