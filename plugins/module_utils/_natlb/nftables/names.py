# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of maps, sets and chains that other code than the renderer has to recognise in a listing. Each name is written
and recognised here only."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..model.entities import Backend, Service
from ..packets import PROTOCOLS, Protocol, protocol_named

_SLOTS = re.compile(rf"(?:slot|(first_slot))_({'|'.join(PROTOCOLS)})(?:_(\d+))?\Z")
_AFFINITY, _BACKEND = "affinity", "b"
#: The states in which a connection may be idle, as nft names them. To all others nft gives the defaults of the kernel
#: (ct_timeout_evaluate in its src/evaluate.c), not what the host has set. A UDP flow without answers, as that of
#: syslog, is no less used than one with them.
IDLE_STATES = {"tcp": ("established",), "udp": ("unreplied", "replied")}


class SlotMap(NamedTuple):
    """A map from slots to backends: of which protocol, and which of several (see `layout.py`)."""

    protocol: Protocol
    shard: int = 0

    @property
    def name(self) -> str:
        """As it is declared in the table."""
        return f"slot_{self.protocol}" + (f"_{self.shard}" if self.shard else "")

    @property
    def first(self) -> str:
        """The name of the chain that takes the first slot of a service in this map."""
        return f"first_{self.name}"


def slot_map(name: str) -> SlotMap | None:
    """The map of slots of this name; None where it is the name of something else."""
    match = _SLOTS.match(name)
    return SlotMap(protocol_named(match[2]), int(match[3] or 0)) if match and not match[1] else None


def is_first_slot(name: str) -> bool:
    """Whether a chain takes the first slot of a service (`SlotMap.first`)."""
    match = _SLOTS.match(name)
    return bool(match and match[1])


def identifier(backend: Backend) -> str:
    """The backend's identity in the letters that nft allows in a name."""
    return backend.address.replace(":", "_") + (f".{backend.port}" if backend.port else "")


def backend_chain(service: Service, protocol: Protocol, backend: Backend) -> str:
    """The chain that leads to one backend alone."""
    return f"{_BACKEND}.{service.name}.{protocol}.{identifier(backend)}"


def is_backend_chain(name: str) -> bool:
    """Whether a chain leads to one backend alone."""
    return name.partition(".")[0] == _BACKEND


def pin_map(service: Service, protocol: Protocol) -> str:
    """The map of the networks that are pinned."""
    return f"pins.{service.name}.{protocol}"


def pin_chain(service: Service, protocol: Protocol, backend: Backend) -> str:
    """The chain that pinned clients of a backend come to: it leads on only while that serves."""
    return f"pin.{service.name}.{protocol}.{identifier(backend)}"


def attempt_chain(service: Service, protocol: Protocol, backend: Backend) -> str:
    """The chain that leads to a backend with a limit while it has room, and comes back where it has none."""
    return f"room.{service.name}.{protocol}.{identifier(backend)}"


def places_set(service: Service, backend: Backend) -> str:
    """The set of the connections of a backend with a limit; the protocols of a service share it. A set keeps the size
    that it was made with, so another limit needs another set."""
    return f"places.{service.name}.{identifier(backend)}/{backend.max_connections}"


def affinity_set(service: Service, backend: Backend) -> str:
    """The set of a backend's clients; the protocols of a service share it."""
    return f"{_AFFINITY}.{service.name}.{identifier(backend)}"


def is_affinity(name: str) -> bool:
    """Whether a set keeps the clients of a backend."""
    return name.partition(".")[0] == _AFFINITY


def client_set(service: Service, only: bool) -> str:
    """The set of the networks whose clients a service admits `only`, or denies. Services that have nothing but one and
    the same list share its set, whichever of both it is to them."""
    if service.words.alone is not None:
        return f"networks.{service.words.alone}"
    return f"{'allow' if only else 'deny'}.{service.name}"


def rate_set(service: Service) -> str:
    """The set of a service's clients with their rates. Elements keep the limit that they were made with, so another
    limit needs another set; likewise below."""
    return f"rate.{service.name}/{service.new_connections_per_second}"


def count_set(service: Service) -> str:
    """The set of a service's clients with their connections."""
    return f"connections.{service.name}/{service.max_connections_per_client}"
