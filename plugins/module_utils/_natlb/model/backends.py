# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backends of a service, as a user types them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Callable, TypeVar

from ..errors import ConfigError, ConfigErrors
from . import keys_elsewhere, words
from . import values as parse
from .entities import MAX_BACKENDS, MAX_CONNECTIONS, MAX_PRIORITY, MAX_WEIGHT, Backend, Listen
from .mark_keys import read_mark
from .reading import Reading
from .shifted_ports import NO_PORT, PortAsGiven, read_port, resolved
from .snat_keys import of_backend

T = TypeVar("T")
#: Of ports that cannot be told.
_UNKNOWN: tuple[int | None, int] = (None, 0)
#: A backend, and its ports if they depend on those of the service.
_Read = tuple[Backend, PortAsGiven]


def read_backends(value: Any, path: str, listens: Sequence[Listen]) -> tuple[Backend, ...]:
    """As a user types them. `listens` are where the service does. Raises `ConfigErrors`."""
    items = (
        [item for _at, item in parse.one_or_more(value, path)]
        if isinstance(value, str)
        else parse.sequence(value, path)
    )
    if len(items) > MAX_BACKENDS:
        raise ConfigError(path, f"{len(items)} backends", f"at most {MAX_BACKENDS} in one service")
    reading = Reading()
    places: dict[str, str] = {}
    names: dict[str, str] = {}
    backends: list[Backend] = []
    ranges = [(listen.low, listen.high) for listen in listens]
    for index, item in enumerate(items):
        at = f"{path}[{index}]"
        for read, ports in reading.each(_backend, [(at, item)]):
            backend = read
            if ports is not NO_PORT:
                port, shift = reading.read(resolved, ports, ranges, f"{at}.port", otherwise=_UNKNOWN)
                backend = replace(read, port=port, shift=shift)
            backends.append(backend)
            if backend.key in places:
                problem = f"{backend.address} stands at {places[backend.key]} already"
                reading.add(at, problem, "name it once, with a higher weight if it is to get more")
            elif backend.name in names:
                problem = f"{backend.name} is the name of {names[backend.name]} already"
                reading.add(f"{at}.name", problem, "give each backend of a service a name of its own")
            places.setdefault(backend.key, at)
            names.setdefault(backend.name, at)
    if not reading.errors and backends and not any(backend.weight for backend in backends):
        remedy = "to take backends out, use state: drained or disabled"
        reading.add(path, "every weight is 0, so none could ever serve", remedy)
    shares = [isinstance(item, Mapping) and words.is_percentage(item.get("weight")) for item in items]
    if any(shares) and len(shares) != sum(shares):
        problem, remedy = "some weights are percentages, and others are not", "write all of them in one way"
        reading.add(path, problem, remedy)
    reading.done()
    return tuple(backends)


BACKEND_KEYS = ("address", "port", "name", "weight", "state", "backup", "max_connections", "snat", "mark", "priority")


def _backend(value: Any, path: str) -> _Read:
    """Services share their backends, so a valid one is not read again."""
    try:
        return _read_before(tuple((key, type(item), item) for key, item in value.items()))
    except (AttributeError, TypeError, ConfigError, ConfigErrors):
        return _read_backend(value, path)


@lru_cache(maxsize=65536)
def _read_before(items: tuple[tuple[str, type, Any], ...]) -> _Read:
    """The backend of these keys and values. Their types are part of the key, for 1 and True are equal and do not mean
    the same."""
    return _read_backend({key: item for key, _type, item in items}, "")


def _read_backend(value: Any, path: str) -> _Read:
    reading = Reading()
    written = {"address": value} if isinstance(value, str) else value
    given = reading.mapping(written, path, BACKEND_KEYS, ("address",), keys_elsewhere.SERVICES)
    given = reading.read(_with_port, given, f"{path}.address", otherwise=given)

    def read(key: str, otherwise: T, function: Callable[..., T], *more: Any) -> T:
        if key not in given:
            return otherwise
        return reading.read(function, given[key], f"{path}.{key}", *more, otherwise=otherwise)

    address = str(read("address", None, parse.host_address))
    port: PortAsGiven = read("port", NO_PORT, read_port)
    backend = Backend(
        address=address,
        port=port.port,
        name=read("name", address, parse.backend_name),
        weight=read("weight", 1, words.weight, MAX_WEIGHT),
        state=read("state", "active", words.state),
        backup=read("backup", False, parse.boolean),
        max_connections=read("max_connections", 0, parse.integer, 0, MAX_CONNECTIONS),
        snat=read("snat", None, of_backend, address),
        mark=read("mark", None, read_mark),
        priority=read("priority", 0, parse.integer, 1, MAX_PRIORITY),
    )
    reading.done()
    return backend, port if port.port is None else NO_PORT


def _with_port(given: dict[str, Any], path: str) -> dict[str, Any]:
    """With the port on its own, which may stand behind the address."""
    if not isinstance(given.get("address"), str):
        return given
    address, port = words.endpoint(given["address"], path)
    if port is None:
        return {**given, "address": address} if address != given["address"] else given
    if "port" in given:
        raise ConfigError(
            path, f"{parse.shown(given['address'])} has a port, and port is given as well", "write it once"
        )
    return {**given, "address": address, "port": port}
