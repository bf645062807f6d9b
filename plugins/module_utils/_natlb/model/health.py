# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a user wants backends to be checked, read into typed values (`entities.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, TypeVar

from ..errors import ConfigError
from . import values
from .entities import HEALTH_KEYS, Health
from .reading import Reading

T = TypeVar("T")

#: Of every type of check, and of any.
_COMMON = ("type", "interval", "timeout", "fall", "rise", "fail_open")
KEYS = (*_COMMON, *dict.fromkeys(key for keys in HEALTH_KEYS.values() for key in keys))


def health_check(value: Any, path: str) -> Health | None:
    if value == "none":
        return None
    kinds = tuple(HEALTH_KEYS)
    reading = Reading()
    if not isinstance(value, Mapping) or value.get("type") not in kinds:
        given = reading.mapping(value, path, KEYS, ("type",))
        if "type" in given:
            reading.read(values.choice, given["type"], f"{path}.type", kinds, otherwise="none")
        reading.done()
    kind = value["type"]
    given = reading.mapping(value, path, _COMMON + HEALTH_KEYS[kind])
    if kind == "none":
        reading.done()
        return None

    def read(key: str, otherwise: T, function: Callable[..., T], *limits: Any) -> T:
        if key not in given:
            return otherwise
        return reading.read(function, given[key], f"{path}.{key}", *limits, otherwise=otherwise)

    health = Health(
        type=kind,
        port=read("port", None, values.port),
        interval_s=read("interval", 2.0, values.duration, 0.1, 3600),
        timeout_s=read("timeout", 1.0, values.duration, 0.05, 3600),
        fall=read("fall", 3, values.integer, 1, 100),
        rise=read("rise", 2, values.integer, 1, 100),
        fail_open=read("fail_open", False, values.boolean),
        path=read("path", "/", _printable),
        host=read("host", None, _printable),
        status=tuple(reading.each(_status, values.one_or_more(given.get("status", 200), f"{path}.status"))),
        argv=tuple(reading.each(values.text, values.one_or_more(given.get("argv", []), f"{path}.argv"))),
    )
    if given.get("status") == []:
        reading.add(f"{path}.status", "is empty", "name at least one HTTP status, or leave it out for 200")
    if kind == "command" and not health.argv:
        reading.add(f"{path}.argv", "is missing", "name the program and its arguments as a list")
    if health.timeout_s > health.interval_s:
        reading.add(f"{path}.timeout", "is longer than the interval", "answers would overlap; make it shorter")
    reading.done()
    return health


def _status(value: Any, path: str) -> int:
    return values.integer(value, path, 100, 599, "an HTTP status")


def _printable(value: Any, path: str) -> str:
    text = values.text(value, path)
    if text and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise ConfigError(path, f"{values.shown(text)} cannot stand in a request", "use visible ASCII without spaces")
