# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Words of other balancers: taken where they mean the same beyond doubt, and answered with a word of natlb otherwise.

Sources: the manuals of ipvsadm(8), of HAProxy (`balance`, `set server … state`), nginx (`upstream`), nftlb, loxilb.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import ConfigError
from ..packets import PROTOCOLS, Protocol
from . import values
from .backups import BACKUPS, Backups
from .entities import METHODS, STATES, Method, State

_METHODS = {
    "rr": "round_robin",
    "wrr": "round_robin",
    "roundrobin": "round_robin",
    "static_rr": "round_robin",
    "lc": "least_connections",
    "wlc": "least_connections",
    "leastconn": "least_connections",
    "least_conn": "least_connections",
    "sh": "source_hash",
    "mh": "source_hash",
    "source": "source_hash",
    "dh": "destination_hash",
}
_BY_DESTINATION = "the nearest is destination_hash, which does not look at connections"
_SPARE = "write round_robin, and backup: true at the backends that are to wait"
_OTHER_METHODS = {
    "ip_hash": "write source_hash, and client_prefix: {ipv4: 24} to hash the first three numbers alone, as nginx does",
    "hash": "write source_hash (the client's address) or flow_hash (its address and port)",
    "symhash": "write flow_hash (the client's address and port)",
    "maglev": "write source_hash or flow_hash: both fill their tables as Maglev does",
    "sed": "the nearest is least_connections",
    "nq": "the nearest is least_connections",
    "least_time": "the nearest is least_connections",
    "random_two": "write least_connections: the agent counts the connections of all backends, not of two",
    "p2c": "write least_connections: the agent counts the connections of all backends, not of two",
    "lblc": _BY_DESTINATION,
    "lblcr": _BY_DESTINATION,
    "first": _SPARE,
    "fo": _SPARE,
    "ovf": _SPARE,
    "priority": _SPARE,
}
#: Of HAProxy: the better of so many that are drawn by chance.
_DRAWS = re.compile(r"random ?\( ?(\d+) ?\)")
_STATES = {
    "ready": "active",
    "enabled": "active",
    "drain": "drained",
    "maint": "disabled",
    "maintenance": "disabled",
    "down": "disabled",
}


def method(value: Any, path: str) -> Method:
    """A method of balancing. Raises `ConfigError`."""
    word = _plain(value)
    draws = _DRAWS.fullmatch(word)
    if draws:
        word = "random" if draws[1] == "1" else "random_two"
    if word in _OTHER_METHODS:
        raise ConfigError(path, f"{values.shown(value)} is no method here", _OTHER_METHODS[word])
    return values.choice(_METHODS.get(word, word or value), path, METHODS)


def backups(value: Any, path: str) -> Backups:
    """How backups join, also with hyphens. Raises `ConfigError`."""
    return values.choice(_plain(value) or value, path, BACKUPS)


def protocol(value: Any, path: str) -> Protocol:
    """A protocol, also as Kubernetes and keepalived write it: `UDP`. Raises `ConfigError`."""
    return values.choice(_plain(value) or value, path, PROTOCOLS)


def state(value: Any, path: str) -> State:
    """The state of a backend. Raises `ConfigError`."""
    word = _plain(value)
    return values.choice(_STATES.get(word, word or value), path, STATES)


def weight(value: Any, path: str, highest: int) -> int:
    """A weight, or a percentage, which is one if all weights are. Raises `ConfigError`."""
    if isinstance(value, float) or (isinstance(value, str) and "." in value):
        remedy = "weights are whole numbers in relation to each other: multiply all of them alike"
        raise ConfigError(path, f"{values.shown(value)} is not a weight", remedy)
    return values.integer(value[:-1] if is_percentage(value) else value, path, 0, highest, "a weight")


def is_percentage(value: Any) -> bool:
    """Whether it was written as a part of the whole."""
    return isinstance(value, str) and value.endswith("%")


def endpoint(value: str, path: str) -> tuple[str, str | None]:
    """`ADDRESS` or `ADDRESS:PORT` (`[ADDRESS]:PORT` over IPv6), taken apart; neither is checked. Raises `ConfigError`
    where a bracket is left open."""
    host, port = values.taken_apart(value)
    if host.startswith("["):
        raise ConfigError(path, f"{values.shown(value)} is not ADDRESS:PORT", 'write "[2001:db8:2::3]:8080"')
    return host, port


def backends_as_given(value: Any) -> Iterator[Mapping[str, Any]]:
    """The backends of a service as they were written, without a check: address and port apart, all else as it is.

    Whatever cannot be one is passed over.
    """
    items = [item for _at, item in values.one_or_more(value, "")]
    for item in ({"address": item} if isinstance(item, str) else item for item in items):
        if isinstance(item, Mapping) and isinstance(item.get("address"), str):
            try:
                address, port = endpoint(item["address"], "")
            except ConfigError:
                continue
            given = item.get("port") if port is None else int(port) if port.isdecimal() else None
            yield {**item, "address": address, "port": given}


def _plain(value: Any) -> str:
    return value.strip().lower().replace("-", "_") if isinstance(value, str) else ""
