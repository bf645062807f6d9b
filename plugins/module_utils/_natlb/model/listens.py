# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where clients connect to, as a user types it. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from ..errors import ConfigError
from ..packets import FAMILIES
from . import values as parse
from .entities import Listen
from .left_to_the_host import NOT_IN_NETWORKS
from .lists import distinct
from .reading import Reading


def listens(value: Any, path: str) -> tuple[Listen, ...]:
    reading = Reading()
    found = reading.each(_listen, parse.one_or_more(value, path))
    reading.done()
    if not found:
        raise ConfigError(path, "is empty", "name at least one ADDRESS:PORT")
    return tuple(distinct(found))


#: What stands before the port: an address of IPv6, or a network, whose length may stand in the brackets or behind them.
_HOST = re.compile(r"\[(?P<inside>[^\[\]]*)\](?P<length>/[0-9]{1,3})?|(?P<bare>[^:\[\]]+)")
_REMEDY = (
    'write ADDRESS:PORT such as "192.0.2.10:80", "[2001:db8::10]:80", "192.0.2.10:8000-8010", "198.51.100.0/24:80" or '
    '"*:30080"'
)


def _listen(value: Any, path: str) -> Listen:
    host, colon, ports = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    match = _HOST.fullmatch(host)
    if match is None or not colon:
        raise ConfigError(path, f"{parse.shown(value)} is not ADDRESS:PORT", _REMEDY)
    low, high = parse.port_range(ports, path)
    if host == "*":
        return Listen(None, low, high)
    where = match["bare"] or f"{match['inside']}{match['length'] or ''}"
    address, version = _network(where, path) if "/" in where else _host(where, path)
    if version == 4 and match["bare"] is None:
        raise ConfigError(path, f"{parse.shown(value)} has brackets around an IPv4 address", _REMEDY)
    return Listen(address, low, high)


def _host(text: str, path: str) -> tuple[str, int]:
    address = parse.host_address(text, path)
    return str(address), address.version


def _network(text: str, path: str) -> tuple[str, int]:
    """The network in its canonical spelling; one of a single address is that address."""
    network = parse.network(text, path)
    if network.prefixlen == network.max_prefixlen:
        return _host(str(network.network_address), path)
    for family in FAMILIES:
        for left in map(ipaddress.ip_network, NOT_IN_NETWORKS[family]):
            if left.version == network.version and left.supernet_of(network):  # type: ignore[arg-type]
                raise ConfigError(path, f"{network} has no address that NAT balances", _REMEDY)
    return str(network), network.version
