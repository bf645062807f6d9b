# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a new connection is given for all of its life: a time-out (`idle_timeout`) and a reader (`helper`).

    ct timeout idle.tcp.3600 { protocol tcp; l3proto ip; policy = { established : 3600 }; }
    ct helper helper.ftp.tcp { type "ftp" protocol tcp; l3proto ip; }
    s.web.tcp                ct timeout set "idle.tcp.3600"; ct helper set "helper.ftp.tcp"; …

The kernel takes these objects for a connection that is not confirmed yet (nft_ct.c). The chain of a service is met by
those alone, so nothing is looked up for it, and the packets behind the first cost what they did. A helper has to be
there before the translation: this is when the kernel makes room for what packets grow or shrink by (nf_nat_core.c).
"""

from __future__ import annotations

from ..model.entities import Service
from ..packets import Protocol
from .names import IDLE_STATES
from .table import Table
from .text import Lines


def declare(table: Table, service: Service) -> None:
    """The objects of a service, also while nobody serves: a time-out that goes leaves its connections to the times of
    the host. The kernel changes none in place, so another one has another name; services share those that are equal.
    """
    for protocol in service.protocols:
        of = f"l3proto {table.family}"
        if service.idle_timeout_s:
            policy = ", ".join(f"{state} : {service.idle_timeout_s}" for state in IDLE_STATES[protocol])
            table.declare(
                "timeout", _timeout(service, protocol), f"protocol {protocol}", of, f"policy = {{ {policy} }}"
            )
        if service.helper:
            table.declare("helper", _helper(service, protocol), f'type "{service.helper}" protocol {protocol}', of)


def rules(service: Service, protocol: Protocol) -> Lines:
    """What gives a new connection the objects of its service."""
    return [
        *([f'ct timeout set "{_timeout(service, protocol)}"'] if service.idle_timeout_s else []),
        *([f'ct helper set "{_helper(service, protocol)}"'] if service.helper else []),
    ]


def _timeout(service: Service, protocol: Protocol) -> str:
    return f"idle.{protocol}.{service.idle_timeout_s}"


def _helper(service: Service, protocol: Protocol) -> str:
    return f"helper.{service.helper}.{protocol}"
