# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of `snat_ports` that may not be enough for the connections of one backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..model import snat_ports
from ..model.entities import Config, Service

#: A busy backend has more connections than this in the two minutes for which a closed one keeps its port.
FEW = 4096
LOCAL_PORTS = "net/ipv4/ip_local_port_range"


def warnings(config: Config, read: Callable[[str], str | None]) -> Iterator[str]:
    """`read` gives the value of a sysctl; it is asked only where a service names ports."""
    for service in config.services:
        room = snat_ports.room(service)
        if room is not None:
            most = max((backend.max_connections for backend in service.backends), default=0)
            if room < max(FEW, most):
                yield _warning(service, room, read(LOCAL_PORTS) or "")


def _warning(service: Service, room: int, local: str) -> str:
    low, high = service.snat_ports or (0, 0)
    own = [int(word) for word in local.split() if word.isdigit()]
    shared = ""
    if len(own) == 2 and own[0] <= high and low <= own[1]:
        shared = f" (connections of this host itself take ports of {own[0]}-{own[1]} as well: ip_local_port_range)"
    return (
        f"service {service.name}: snat_ports {snat_ports.text((low, high))} allows {room} connections at a time to one "
        f"backend{shared}, closed ones for up to two minutes more; any more get no answer; widen the range, or name "
        f"several addresses in snat"
    )
