# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where clients connect to, as a user types it. Pure."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError
from . import values as parse
from .entities import Listen
from .lists import distinct
from .reading import Reading


def listens(value: Any, path: str) -> tuple[Listen, ...]:
    reading = Reading()
    found = reading.each(_listen, parse.one_or_more(value, path))
    reading.done()
    if not found:
        raise ConfigError(path, "is empty", "name at least one ADDRESS:PORT")
    return tuple(distinct(found))


def _listen(value: Any, path: str) -> Listen:
    remedy = 'write ADDRESS:PORT such as "192.0.2.10:80", "[2001:db8::10]:80", "192.0.2.10:8000-8010" or "*:30080"'
    if not isinstance(value, str):
        raise ConfigError(path, f"{parse.shown(value)} is not ADDRESS:PORT", remedy)
    host, colon, ports = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not bracketed):
        raise ConfigError(path, f"{parse.shown(value)} is not ADDRESS:PORT", remedy)
    low, high = parse.port_range(ports, path)
    if host == "*":
        return Listen(None, low, high)
    address = parse.host_address(host[1:-1] if bracketed else host, path)
    if bracketed != (address.version == 6):
        raise ConfigError(path, f"{parse.shown(value)} has brackets around an IPv4 address", remedy)
    return Listen(str(address), low, high)
