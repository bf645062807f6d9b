# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source ports that the networks behind the balancer may not keep.

A host behind the balancer that opens a connection from port 80 to a client would be translated to port 80 of the
balancer. If that is the port of a service, what this client sends to the service from the port that it was called at
belongs to that connection, and so to that host instead of a backend (port shadowing; the kernel shows it in
`test_port_shadow` of its nft_nat.sh). So a source port that is one of a service is replaced by another. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..packets import PROTOCOLS, Family, Protocol
from .entities import Frontend, Service
from .outbound import Egress
from .ranges import Range, is_in, merged

#: As many ranges as one rule of iptables can hold (`xt_multiport`); those with the smallest gaps are taken for one.
MOST = 7
#: What the kernel gives to nobody who does not ask for it.
_FIRST, _LAST = 1024, 65535


class Shadowed(NamedTuple):
    """In one protocol: the ports that services have, and the ports to take instead, which none has."""

    protocol: Protocol
    ports: tuple[Range, ...]
    instead: Range


def shadowed(services: Sequence[Service], family: Family, egress: Egress) -> Iterator[Shadowed]:
    """For each protocol of an egress rule in which a service may have the address that the rule translates to.

    Where services have every port from 1024 on, there is none to take instead, and nothing to be done. A rule with
    `snat_ports` keeps no other port anyway, and no service has one of those.
    """
    for protocol in PROTOCOLS if egress.snat != "none" and not egress.snat_ports else ():
        found = {
            (frontend.low, frontend.high)
            for service in (services if egress.protocol in (None, protocol) else ())
            for frontend in service.frontends()
            if (frontend.family, frontend.protocol) == (family, protocol)
            and (None in (frontend.address, egress.snat_address) or _has(frontend, str(egress.snat_address)))
        }
        ports = merged(found)
        instead = _widest_gap(ports)
        if ports and instead is not None:
            yield Shadowed(protocol, _few(ports), instead)


def _has(frontend: Frontend, address: str) -> bool:
    return is_in(str(frontend.address), address) if frontend.is_network else frontend.address == address


def _few(ranges: Sequence[Range]) -> tuple[Range, ...]:
    while len(ranges) > MOST:
        gaps = sorted((after[0] - before[1], before) for before, after in zip(ranges, ranges[1:]))
        nearest = {before for _gap, before in gaps[: len(ranges) - MOST]}
        ranges = merged(_joined(ranges, nearest))
    return tuple(ranges)


def _joined(ranges: Sequence[Range], nearest: set[Range]) -> Iterator[Range]:
    """Each range, as far as the next one where it is among the nearest."""
    for number, (low, high) in enumerate(ranges):
        yield low, ranges[number + 1][0] if (low, high) in nearest else high


def _widest_gap(ranges: Iterable[Range]) -> Range | None:
    """The most ports in a row that no range has."""
    best: Range | None = None
    start = _FIRST
    for low, high in (*ranges, (_LAST + 1, _LAST + 1)):
        if low > start and (best is None or low - start > best[1] - best[0] + 1):
            best = (start, low - 1)
        start = max(start, high + 1)
    return best
