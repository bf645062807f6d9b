# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services on a network that has their own backends.

A backend whose gateway is this host opens connections of its own, to the ports of the service and to addresses of the
network: these are balanced as well, and may come back to it. A proxy that passes on what it accepts goes round in
circles. An `interface` tells clients from backends, unless both come in by one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..host.routes import Ways
from ..model.entities import Config, Service
from ..model.families import family_of, ports_text
from ..model.precedence import in_network

#: Backends that a message names.
_NAMED = 3


def warnings(config: Config, ways: Ways) -> Iterator[str]:
    """A warning for each such service."""
    for service in config.services:
        for listen in service.listens:
            network = listen.address or ""
            found = _within(service, network, ways) if "/" in network else []
            if found:
                named = ", ".join(found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
                ports = ports_text(listen.low, listen.high)
                yield (
                    f"service {service.name}: its backends {named} are in {network} and come in where its clients do: "
                    f"if this host is their gateway, connections that they open to port {ports} of that network are "
                    f"balanced as well, and may come back to them; name the interface of the clients (interface)"
                )
                break


def _within(service: Service, network: str, ways: Ways) -> list[str]:
    """The backends in the network whose connections it would take."""
    return [
        backend.address
        for backend in service.backends
        if backend.family == family_of(network)
        and in_network(network, backend.address)
        and service.admits(backend.address)
        and service.interface in (None, ways.interface(backend.address))
    ]
