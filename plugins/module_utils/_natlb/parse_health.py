# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a user wants backends to be checked, read into typed values (`entities.py`)."""

from __future__ import annotations

from typing import Any

from . import parse
from .entities import HEALTH_KEYS, Health
from .errors import ConfigError


def health_check(value: Any, path: str) -> Health | None:
    if value is None or value == "none":
        return None
    common = ("type", "interval", "timeout", "fall", "rise")
    every = (*common, "port", "path", "host", "status", "argv")
    given = parse.mapping(value, path, every, required=("type",))
    kind = parse.choice(given["type"], f"{path}.type", tuple(HEALTH_KEYS))
    parse.mapping(given, path, common + HEALTH_KEYS[kind])
    if kind == "none":
        return None
    health = Health(
        type=kind,
        port=parse.port(given["port"], f"{path}.port") if "port" in given else None,
        interval_s=parse.duration(given.get("interval", 2), f"{path}.interval", 0.1, 3600),
        timeout_s=parse.duration(given.get("timeout", 1), f"{path}.timeout", 0.05, 3600),
        fall=parse.integer(given.get("fall", 3), f"{path}.fall", 1, 100),
        rise=parse.integer(given.get("rise", 2), f"{path}.rise", 1, 100),
        path=_printable(given.get("path", "/"), f"{path}.path"),
        host=_printable(given["host"], f"{path}.host") if "host" in given else None,
        status=tuple(
            parse.integer(item, at, 100, 599, "an HTTP status")
            for at, item in parse.one_or_more(given.get("status", 200), f"{path}.status")
        ),
        argv=tuple(parse.text(item, at) for at, item in parse.one_or_more(given.get("argv", []), f"{path}.argv")),
    )
    if health.timeout_s > health.interval_s:
        raise ConfigError(f"{path}.timeout", "is longer than the interval", "answers would overlap; make it shorter")
    if kind == "command" and not health.argv:
        raise ConfigError(f"{path}.argv", "is missing", "name the program and its arguments as a list")
    return health


def _printable(value: Any, path: str) -> str:
    text = parse.text(value, path)
    if text and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise ConfigError(path, f"{parse.shown(text)} cannot stand in a request", "use visible ASCII without spaces")
