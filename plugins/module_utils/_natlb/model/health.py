# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a user wants backends to be checked: read, kept as typed values, and written again. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Callable, Literal, NamedTuple

from ..errors import ConfigError, ConfigErrors
from . import keys_elsewhere, values
from .reading import Reading

CheckType = Literal["none", "tcp", "http", "https", "command", "agent", "udp", "dns"]
HttpMethod = Literal["GET", "HEAD", "OPTIONS"]
#: What becomes of connections that are established to a backend that is down.
OnDown = Literal["keep", "reset"]

_TARGET = ("port", "address")
_SOCKET = (*_TARGET, "source")
_HTTP = (*_SOCKET, "path", "host", "method", "status", "body")
#: The keys of each type of check.
HEALTH_KEYS: dict[CheckType, tuple[str, ...]] = {
    "none": (),
    "tcp": _SOCKET,
    "http": _HTTP,
    "https": (*_HTTP, "verify"),
    "command": ("argv", "user", *_TARGET),
    "agent": _SOCKET,
    "udp": (*_SOCKET, "send", "expect"),
    "dns": (*_SOCKET, "query"),
}
#: What a check replaces in the arguments of a command, written in braces.
PLACEHOLDERS = ("address", "port")
_OTHER_WORDS = {"addr": "address", "host": "address", "ip": "address", "backend": "address"}
#: Neither a variable of a shell, ${HOST}, nor one of curl's, %{http_code}.
_BRACED = re.compile(r"(?<![$%{])\{(\s*\w+\s*)\}(?!\})")
_REQUIRED = {
    "command": {"argv": "name the program and its arguments as a list"},
    "agent": {"port": "name the port on which the agent of the backend answers"},
    "udp": {"send": "name what to send, such as ping or hex:00ff"},
    "dns": {"query": "name what to ask for, such as www.example.com"},
}
HTTP_METHODS: tuple[HttpMethod, ...] = ("GET", "HEAD", "OPTIONS")
ON_DOWN: tuple[OnDown, ...] = ("keep", "reset")

_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\Z")
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_HEX = "hex:"
#: A datagram of this size passes every network without being cut into pieces (RFC 8085, section 3.2).
_LONGEST_DATAGRAM = 1200
_LONGEST_BODY = 1024


@dataclass(frozen=True)
class Health:
    """How a backend is checked. Times in seconds; fields of other types of check have their defaults.

    `port` and `address` are None where they are the backend's. `status` holds ranges, both ends included.
    """

    type: CheckType
    port: int | None = None
    address: str | None = None
    #: Where checks come from, for the backends of its family.
    source: str | None = None
    interval_s: float = 2.0
    #: The interval while a state is changing; None where it is the same.
    fast_interval_s: float | None = None
    timeout_s: float = 1.0
    fall: int = 3
    rise: int = 2
    #: By up to so much, each time by another part of it, an interval is shorter.
    jitter_s: float = 0.0
    #: How long a backend that came back takes to reach its weight.
    slow_start_s: float = 0.0
    #: Whether the backends of a family go on serving where the checks of all of them fail at once.
    fail_open: bool = False
    on_down: OnDown = "keep"
    path: str = "/"
    host: str | None = None
    method: HttpMethod = "GET"
    status: tuple[tuple[int, int], ...] = ((200, 200),)
    body: str | None = None
    verify: bool = False
    argv: tuple[str, ...] = ()
    user: str = "nobody"
    send: str = ""
    expect: str | None = None
    query: str = ""


def health_check(value: Any, path: str) -> Health | None:
    """Read the `health` of a service; None is no check."""
    if value == "none":
        return None
    reading = Reading()
    kind = value.get("type") if isinstance(value, Mapping) else None
    given = reading.mapping(value, path, KEYS, ("type",), keys_elsewhere.SERVICES)
    found = _read_keys(given, path, reading)
    if not isinstance(kind, str) or kind not in HEALTH_KEYS:
        if "type" in given:
            reading.read(values.choice, kind, f"{path}.type", tuple(HEALTH_KEYS), otherwise="none")
        raise ConfigErrors(reading.errors)
    for key in given:
        having = [each for each, keys in HEALTH_KEYS.items() if key in keys]
        if having and kind not in having:
            reading.add(f"{path}.{key}", f"is no key of type {kind}", f"it is one of {', '.join(having)}")
    for key, remedy in _REQUIRED.get(kind, {}).items():
        if key not in value:
            reading.add(f"{path}.{key}", "is missing", remedy)
    if "timeout" not in given and "interval_s" in found:
        found["timeout_s"] = min(Health.timeout_s, found["interval_s"])
    health = Health(type=kind, **found)
    _check(health, path, reading)
    reading.done()
    return None if kind == "none" else health


def _read_keys(given: Mapping[str, Any], path: str, reading: Reading) -> dict[str, Any]:
    """The fields of `Health` of these keys, whatever its type."""
    found = {}
    for key, item in given.items():
        if key in _KEYS:
            field, function, limits = _KEYS[key]
            # The default of a field of a dataclass is an attribute of the class.
            otherwise = getattr(Health, field)
            found[field] = reading.read(function, item, f"{path}.{key}", *limits, otherwise=otherwise)
    return found


def _check(health: Health, path: str, reading: Reading) -> None:
    """What no key shows on its own."""
    if health.timeout_s > health.interval_s:
        reading.add(f"{path}.timeout", "is longer than the interval", "answers would overlap; make it shorter")
    if health.fast_interval_s is not None and health.fast_interval_s > health.interval_s:
        reading.add(f"{path}.fast_interval", "is longer than the interval", "make it shorter, or leave it out")
    if health.jitter_s > health.interval_s / 2:
        reading.add(f"{path}.jitter", "is longer than half the interval", "make it shorter")
    if health.body is not None and health.method != "GET":
        problem = f"is looked for in an answer to {health.method}, which has none"
        reading.add(f"{path}.body", problem, "leave out the method or the body")
    if health.address and health.source and (":" in health.address) != (":" in health.source):
        problem = f"cannot reach {health.address}, which is of another family"
        reading.add(f"{path}.source", problem, "name an address of the same family")


def dump_health(health: Health) -> dict[str, Any]:
    """As `health_check` reads it, with every key of its type; those that were left out and have no default are null."""
    found: dict[str, Any] = {"type": health.type}
    for key in (*_COMMON, *HEALTH_KEYS[health.type]):
        found[key] = getattr(health, _KEYS[key].field)
    if "status" in found:
        found["status"] = [low if low == high else f"{low}-{high}" for low, high in health.status]
    if "argv" in found:
        found["argv"] = list(health.argv)
    return found


def payload(text: str) -> bytes:
    """The bytes of `send` or `expect`: of the text, or those that stand behind `hex:`. Raises `ValueError`."""
    return bytes.fromhex(text[len(_HEX) :]) if text.startswith(_HEX) else text.encode()


def _statuses(value: Any, path: str) -> tuple[tuple[int, int], ...]:
    reading = Reading()
    found = reading.each(_status, values.one_or_more(value, path))
    reading.done()
    if not found:
        raise ConfigError(path, "is empty", "name at least one HTTP status, or leave it out for 200")
    return tuple(found)


def _status(value: Any, path: str) -> tuple[int, int]:
    first, dash, last = value.partition("-") if isinstance(value, str) else (value, "", "")
    low = values.integer(first, path, 100, 599, "an HTTP status")
    high = values.integer(last, path, 100, 599, "an HTTP status") if dash else low
    if low > high:
        raise ConfigError(path, f"the range {value} ends before it begins", f"write {high}-{low}")
    return low, high


def _argv(value: Any, path: str) -> tuple[str, ...]:
    reading = Reading()
    # A comma is a part of an argument.
    items = [(path, value)] if isinstance(value, str) else values.one_or_more(value, path)
    found = reading.each(_argument, items)
    reading.done()
    if not found or not found[0]:
        raise ConfigError(path, "is missing", _REQUIRED["command"]["argv"])
    return tuple(found)


def _argument(value: Any, path: str) -> str:
    text = values.text(value, path)
    if "\0" in text:
        raise ConfigError(path, f"{values.shown(text)} holds a null byte", "no argument of a program can")
    for word in _BRACED.findall(text):
        meant = _meant(word)
        if meant is not None:
            raise ConfigError(
                path,
                f"{values.shown(text)}: {{{word}}} stands for nothing, and would be passed as it is",
                f"write {{{meant}}}; {' and '.join(f'{{{each}}}' for each in PLACEHOLDERS)} are replaced",
            )
    return text


def _meant(word: str) -> str | None:
    """The placeholder that is mistyped. Words that are like none of them may be meant for the program."""
    if word in PLACEHOLDERS:
        return None
    plain = word.strip().lower()
    near = difflib.get_close_matches(plain, PLACEHOLDERS, n=1)
    return near[0] if near else _OTHER_WORDS.get(plain)


def _printable(value: Any, path: str) -> str:
    text = values.text(value, path)
    if text and text.isascii() and text.isprintable() and " " not in text:
        return text
    raise ConfigError(path, f"{values.shown(text)} cannot stand in a request", "use visible ASCII without spaces")


def _request_path(value: Any, path: str) -> str:
    text = _printable(value, path)
    if text.startswith("/"):
        return text
    raise ConfigError(path, f"{values.shown(text)} does not begin with /", f"write /{text.split('://')[-1]}")


def _body(value: Any, path: str) -> str:
    text = values.text(value, path)
    if 0 < len(text.encode()) <= _LONGEST_BODY:
        return text
    raise ConfigError(path, f"{values.shown(text)} is empty or too long", f"write 1 to {_LONGEST_BODY} bytes of text")


def _payload(value: Any, path: str) -> str:
    text = values.text(value, path)
    try:
        size = len(payload(text))
    except ValueError as error:
        raise ConfigError(path, f"{values.shown(text)} is not hexadecimal", "write hex:00ff10") from error
    if 0 < size <= _LONGEST_DATAGRAM:
        return text
    raise ConfigError(path, f"has {size} bytes", f"write 1 to {_LONGEST_DATAGRAM}")


def _user(value: Any, path: str) -> str:
    text = values.text(value, path)
    if _USER.match(text):
        return text
    raise ConfigError(path, f"{values.shown(text)} is not the name of a user", "write one such as nobody")


def _query(value: Any, path: str) -> str:
    text = values.text(value, path)
    bare = text[:-1] if text.endswith(".") else text
    if text == "." or (len(bare) <= 253 and all(map(_LABEL.match, bare.split(".")))):
        return text
    raise ConfigError(path, f"{values.shown(text)} is not a name of DNS", "write one such as www.example.com")


def _text_address(value: Any, path: str) -> str:
    return str(values.address(value, path))


class _Key(NamedTuple):
    """The field of `Health` that a key is kept in, what reads it, and the limits that the reader takes."""

    field: str
    read: Callable[..., Any]
    limits: tuple[Any, ...] = ()


#: Of every type of check.
_COMMON = {
    "interval": _Key("interval_s", values.duration, (0.1, 3600)),
    "fast_interval": _Key("fast_interval_s", values.duration, (0.1, 3600)),
    "timeout": _Key("timeout_s", values.duration, (0.05, 3600)),
    "fall": _Key("fall", values.integer, (1, 100)),
    "rise": _Key("rise", values.integer, (1, 100)),
    "jitter": _Key("jitter_s", values.duration, (0, 1800)),
    "slow_start": _Key("slow_start_s", values.duration, (0, 3600)),
    "fail_open": _Key("fail_open", values.boolean),
    "on_down": _Key("on_down", values.choice, (ON_DOWN,)),
}
_KEYS = {
    **_COMMON,
    "port": _Key("port", values.port),
    "address": _Key("address", _text_address),
    "source": _Key("source", _text_address),
    "path": _Key("path", _request_path),
    "host": _Key("host", _printable),
    "method": _Key("method", values.choice, (HTTP_METHODS,)),
    "status": _Key("status", _statuses),
    "body": _Key("body", _body),
    "verify": _Key("verify", values.boolean),
    "argv": _Key("argv", _argv),
    "user": _Key("user", _user),
    "send": _Key("send", _payload),
    "expect": _Key("expect", _payload),
    "query": _Key("query", _query),
}
KEYS = ("type", *_COMMON, *dict.fromkeys(key for keys in HEALTH_KEYS.values() for key in keys))
