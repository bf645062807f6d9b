# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redispatch: a refused attempt to connect takes another backend.

The refusal is dropped on its way to the client. At a RST that answers a SYN the kernel forgets the connection by itself
(nf_conntrack_proto_tcp.c: "If only reply is a RST"). So the SYN that the client sends again is the first packet of a
new connection, and takes another slot.

This is for TCP alone, whose clients send their SYN again without being asked. Nobody sends a datagram of UDP again for
certain, and after an ABORT that answers an INIT of SCTP the kernel keeps the connection (nf_conntrack_proto_sctp.c), so
the next INIT would meet the same backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..packets import Family, Protocol
from .entities import Backend, Frontend, Service
from .health import Health
from .overlaps import overlaps
from .precedence import rank
from .territory import Territory

#: How long an attempt lives on after its first refusal. Linux sends a SYN again after 1, 2, 3, 4, 5, 7 and 11 s (before
#: 6.5 after 1, 3, 7 and 15 s, tcp_syn_linear_timeouts), so where every backend refuses, the client knows after 11 or
#: 15 s. A backend that a check with its defaults finds dead is out after 7 s at most.
LIVES_S = 10
#: How long a refusal is remembered: longer than the gap in which an attempt may wait for its last SYN.
REMEMBERED_S = 30


def by_default(health: Health | None, protocols: Sequence[Protocol], backends: Sequence[Backend]) -> bool:
    """Whether a service whose declaration does not say redispatches."""
    return health is not None and "tcp" in protocols and len(backends) > 1


def redispatching(services: Sequence[Service]) -> list[Service]:
    """The services that redispatch, with what they do for TCP alone."""
    return [
        replace(service, protocols=("tcp",))
        for service in services
        if service.redispatch and "tcp" in service.protocols
    ]


def spared(services: Sequence[Service], territory: Territory) -> frozenset[Frontend]:
    """Frontends on an address, open to any interface, that take packets which a service that redispatches would have
    otherwise. Their refusals pass where their own service does not hold them back, although one of the other would be
    held back that came from the same backend."""
    if not any(service.redispatch for service in services):
        return frozenset()
    claims = [
        (frontend, index)
        for index, service in enumerate(services)
        for frontend in territory.of(service)
        if frontend.protocol == "tcp"
    ]
    found = set()
    for pair in overlaps(claims):
        (_lesser, owner), (greater, _owner) = sorted(pair, key=lambda claim: rank(claim[0]))
        on_address = greater.address is not None and not greater.is_network
        if services[owner].redispatch and on_address and greater.interface is None:
            found.add(greater)
    return frozenset(found)


def has_choice(service: Service, family: Family) -> bool:
    """Whether an attempt that is refused has somewhere else to go. Otherwise the client is told so at once."""
    return len(service.serving(family)) > 1
