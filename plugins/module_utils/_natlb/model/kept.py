# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services from what `entities.dump` made of them: the quick way back, for text that is known to be our own. Everything
else is for `services.parse_config` to check. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .admission import apart_or_both
from .dumps import UNUSED, UNUSED_OF_BACKENDS
from .entities import Backend, Listen, Service
from .hash_keys import WHOLE, ClientPrefix
from .health import Health, health_check
from .marks import mark_of
from .network_lists import NetworkLists, expanded, name_lists, words_of
from .pins import Pin
from .quorum import of_dump
from .ranges import Range
from .source_nat import ClientSnat, SourceNat


def service(item: Mapping[str, Any], line: str, lists: NetworkLists) -> Service:
    """The service of which `dump` made `item`, by way of JSON, which is `line`; `lists` were declared beside it. Raises
    `KeyError`, `TypeError` or `ValueError`, or gives another service, for anything that it did not make."""
    item = {**UNUSED, **item}
    words = words_of(item["allow_from"], item["deny_from"])
    allowed, denied = tuple(item["allow_from"]), tuple(item["deny_from"])
    if any(words):
        allowed, denied = apart_or_both(expanded(allowed, lists), expanded(denied, lists))
    health, prefix = item["health"], item["client_prefix"]
    snat = item["snat"]
    found = Service(
        name=item["name"],
        listens=tuple(map(_listen, item["listen"])),
        protocols=tuple(item["protocol"]),
        interface=item["interface"],
        method=item["method"],
        affinity_s=item["affinity"],
        client_prefix=WHOLE if prefix is None else ClientPrefix(*prefix.values()),
        snat="address" if isinstance(snat, list) else snat,
        snat_addresses=tuple(snat) if isinstance(snat, list) else (),
        snat_ports=_ports(item["snat_ports"]),
        snat_by_client=tuple([_client_snat(rule["networks"], rule["snat"], lists) for rule in item["snat_by_client"]]),
        mark=mark_of(item["mark"]) if item["mark"] else None,
        idle_timeout_s=item["idle_timeout"] or 0,
        helper=item["helper"],
        allow_from=allowed,
        deny_from=denied,
        words=words,
        when_denied=item["when_denied"],
        max_connections_per_client=item["max_connections_per_client"],
        new_connections_per_second=item["new_connections_per_second"],
        when_empty=item["when_empty"],
        log=item["log"],
        log_prefix=item["log_prefix"],
        health=None if health is None else _health(json.dumps(health)),
        redispatch=item["redispatch"],
        takeover=item["takeover"],
        quorum=of_dump(item["min_healthy"], item["min_healthy_again"]),
        pins=tuple([_pin(pin["client"], pin["backend"], lists) for pin in item["pins"]]),
        backups=item["backups"],
        backends=tuple([_backend(tuple(each), *each.values()) for each in item["backends"]]),
    )
    # As `cached_property` would keep it.
    vars(found)["line"] = line
    return found


def _listen(text: str) -> Listen:
    host, _colon, ports = text.rpartition(":")
    low, dash, high = ports.partition("-")
    return Listen(None if host == "*" else host.strip("[]"), int(low), int(high if dash else low))


def _ports(dumped: str | None) -> Range | None:
    low, _dash, high = (dumped or "").partition("-")
    return (int(low), int(high or low)) if dumped else None


def _snat(dumped: Any) -> SourceNat:
    return SourceNat("address", tuple(dumped)) if isinstance(dumped, list) else SourceNat(dumped)


def _pin(client: str, backend: str, lists: NetworkLists) -> Pin:
    return Pin(client, backend, expanded((client,), lists))


def _client_snat(words: list[str], snat: Any, lists: NetworkLists) -> ClientSnat:
    return ClientSnat(expanded(words, lists), _snat(snat), tuple(words) if name_lists(words) else ())


@lru_cache(maxsize=65536)
def _backend(keys: tuple[str, ...], *values: Any) -> Backend:
    """Services share their backends."""
    item = {**UNUSED_OF_BACKENDS, **dict(zip(keys, values))}
    port, seen, marked = item["port"], item["snat"], item["mark"]
    at, shift = (None, int(port)) if isinstance(port, str) else (port, 0)
    return Backend(
        item["address"],
        at,
        item["name"],
        item["weight"],
        item["state"],
        item["backup"],
        item["max_connections"],
        shift=shift,
        snat=None if seen is None else _snat(seen if seen in ("masquerade", "none") else [seen]),
        mark=mark_of(marked) if marked else None,
        priority=item["priority"] or 0,
    )


@lru_cache(maxsize=1024)
def _health(text: str) -> Health | None:
    given = {key: value for key, value in json.loads(text).items() if value is not None and value != []}
    return health_check(given, "health")
