# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends whose ports are so far from those that clients ask for: there is no way to add to one but a map."""

from __future__ import annotations

from functools import lru_cache

from ..model.entities import Listen, Service
from ..ruleset.names import digest
from .table import Table


def add_map(table: Table, service: Service, shift: int) -> str:
    """The name of a map from the ports of a service to those of a backend. Services that listen on the same ports
    share it."""
    ports, digested = _ports(service.listens)
    name = f"ports.{ports[0]}.{ports[0] + shift}/{digested}"
    elements = table.declare("map", name, "type inet_service : inet_service")
    if not elements:
        elements.update((str(port), str(port + shift)) for port in ports)
    return name


@lru_cache(maxsize=64)
def _ports(listens: tuple[Listen, ...]) -> tuple[list[int], str]:
    """They may be thousands, and each backend asks for each frontend."""
    found = sorted({port for listen in listens for port in range(listen.low, listen.high + 1)})
    return found, digest(" ".join(map(str, found)))
