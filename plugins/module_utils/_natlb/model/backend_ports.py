# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The addresses and ports of all backends, where packets of services come from."""

from __future__ import annotations

from collections.abc import Sequence

from ..packets import Family, Protocol, family_of
from .entities import Backend, Service
from .ranges import Range, apart


def backend_ports(services: Sequence[Service], family: Family) -> dict[tuple[Protocol, str], list[Range]]:
    """Ports by (protocol, address), in ranges that do not overlap; those that only touch stay apart."""
    found: dict[tuple[Protocol, str], set[Range]] = {}
    for service in services:
        for backend in service.backends:
            if backend.family != family:
                continue
            ranges = _ranges(service, backend)
            for protocol in service.protocols:
                found.setdefault((protocol, backend.address), set()).update(ranges)
    return {key: apart(ranges) for key, ranges in found.items()}


def _ranges(service: Service, backend: Backend) -> list[Range]:
    if backend.port is not None:
        return [(backend.port, backend.port)]
    listens = [
        listen for listen in service.listens if listen.address is None or family_of(listen.address) == backend.family
    ]
    return [backend.ports_at(listen.low, listen.high) for listen in listens]
