# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Time-outs of connections that a service has of its own (`idle_timeout`).

    ct timeout idle.tcp.3600 { protocol tcp; l3proto ip; policy = { established : 3600 }; }
    s.web.tcp                ct timeout set "idle.tcp.3600"; …

The kernel takes the object for a connection that is not confirmed yet (nft_ct.c). The chain of a service is met by
those alone, so nothing is looked up for it, and the packets behind the first cost what they did.
"""

from __future__ import annotations

from ..model.entities import Service
from .table import Table
from .text import Lines

#: The states in which a connection may be idle. All others keep the times of the host. A UDP flow without answers, as
#: that of syslog, is no less used than one with them.
_STATES = {"tcp": ("established",), "udp": ("unreplied", "replied")}


def declare(table: Table, service: Service) -> None:
    """The objects of a service, also while nobody serves: an object that goes leaves its connections to the times of
    the host. The kernel changes none in place, so another time is another object; services share those that are equal.
    """
    for protocol in service.protocols if service.idle_timeout_s else ():
        policy = ", ".join(f"{state} : {service.idle_timeout_s}" for state in _STATES[protocol])
        lines = (f"protocol {protocol}", f"l3proto {table.family}", f"policy = {{ {policy} }}")
        table.declare("timeout", _name(service, protocol), *lines)


def rules(service: Service, protocol: str) -> Lines:
    """What gives a new connection the time-out of its service."""
    return [f'ct timeout set "{_name(service, protocol)}"'] if service.idle_timeout_s else []


def _name(service: Service, protocol: str) -> str:
    return f"idle.{protocol}.{service.idle_timeout_s}"
