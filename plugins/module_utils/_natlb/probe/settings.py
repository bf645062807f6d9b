# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a probe: the module's parameters, checked and complete."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from re import Pattern
from typing import Any, Literal

from ..errors import ConfigError
from ..model import values

ProbeProtocol = Literal["tcp", "http", "udp"]
PROTOCOLS: tuple[ProbeProtocol, ...] = ("tcp", "http", "udp")
MAX_CONNECTIONS = 1_000_000
MAX_CONCURRENCY = 500
DEFAULT_SIGNIFICANCE = 0.001
DEFAULT_DATAGRAM = b"natlb-probe\n"

_TARGET = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[^:]*)\Z")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?\Z")
_TARGET_REMEDY = "write ADDRESS:PORT such as 192.0.2.10:80, [2001:db8::10]:80 or www.example.org:80"


@dataclass(frozen=True)
class Settings:
    """The settings of a probe. `expected` is None if any spread is right; then nothing is judged."""

    host: str
    port: int
    protocol: ProbeProtocol
    connections: int
    concurrency: int
    timeout_s: float
    identify: Pattern[str] | None
    payload: bytes
    statuses: tuple[int, ...]
    source: str | None
    expected: dict[str, float] | None
    tolerance: float | None
    significance: float
    max_errors: int
    connect_only: bool = False


def parse_settings(params: Mapping[str, Any]) -> Settings:
    """The module's parameters as `Settings`; `ConfigError` with path and remedy where one makes no sense."""
    host, port = parse_target(params["target"])
    expected = None if params.get("expected") is None else _expected(params["expected"])
    tolerance, significance = params.get("tolerance"), params.get("significance")
    protocol = values.choice(params["protocol"], "protocol", PROTOCOLS)
    connect_only = bool(params.get("connect_only"))
    if connect_only and protocol == "http":
        raise ConfigError("connect_only", "is only for tcp and udp", "for an HTTP service use tcp")
    for name in ("identify", "expected"):
        if connect_only and params.get(name):
            raise ConfigError("connect_only", f"asks for no names, but {name} is given", "leave one of the two out")
    return Settings(
        host=host,
        port=port,
        protocol=protocol,
        connections=values.integer(params["connections"], "connections", 1, MAX_CONNECTIONS, "a number of connections"),
        concurrency=values.integer(params["concurrency"], "concurrency", 1, MAX_CONCURRENCY, "a number of connections"),
        timeout_s=values.duration(params["timeout"], "timeout", 0.01, 600),
        identify=_pattern(params.get("identify")),
        payload=_payload(params, protocol, host, port),
        statuses=tuple(
            values.integer(item, at, 100, 599, "an HTTP status")
            for at, item in values.one_or_more(params.get("status") or [], "status")
        ),
        source=None if params.get("source") is None else str(values.address(params["source"], "source")),
        expected=expected,
        tolerance=None if tolerance is None else _fraction(tolerance, "tolerance", math.inf),
        significance=DEFAULT_SIGNIFICANCE if significance is None else _fraction(significance, "significance", 1.0),
        max_errors=values.integer(params.get("max_errors", 0), "max_errors", 0, MAX_CONNECTIONS, "a number of errors"),
        connect_only=connect_only,
    )


def parse_target(value: Any) -> tuple[str, int]:
    """`192.0.2.10:80`, `[2001:db8::10]:80` or `www.example.org:80` as (host, port)."""
    match = _TARGET.match(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigError("target", f"{values.shown(value)} is not an address with a port", _target_remedy(value))
    host = match.group("v6") or match.group("host")
    if match.group("v6"):
        if _ip_version(host) != 6:
            raise ConfigError("target", f"{values.shown(host)} is not an IPv6 address", _TARGET_REMEDY)
    # A name of digits and dots only is an address gone wrong, and the resolver would guess at it.
    elif _ip_version(host) != 4 and (not _HOST_NAME.match(host) or re.fullmatch(r"[0-9.]+", host)):
        raise ConfigError("target", f"{values.shown(host)} is neither an address nor a host name", _TARGET_REMEDY)
    return host, values.port(match.group("port"), "target")


def _target_remedy(value: Any) -> str:
    if isinstance(value, str) and _ip_version(value) == 6:
        return "write an IPv6 address in brackets: [2001:db8::10]:80"
    return _TARGET_REMEDY


def _ip_version(text: str) -> int | None:
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return None


def _pattern(value: Any) -> Pattern[str] | None:
    if value is None or value == "":
        return None
    try:
        return re.compile(values.text(value, "identify"), re.MULTILINE)
    except re.error as error:
        raise ConfigError(
            "identify",
            f"{values.shown(value)} is not a regular expression: {error}",
            "see Python's re; quote ( [ . * with \\",
        ) from None


def _payload(params: Mapping[str, Any], protocol: ProbeProtocol, host: str, port: int) -> bytes:
    payload = params.get("payload")
    if protocol != "http":
        given = None if payload is None else values.text(payload, "payload").encode()
        return given if given is not None else DEFAULT_DATAGRAM if protocol == "udp" else b""
    if payload is not None:
        raise ConfigError("payload", "is only for tcp and udp", "for http set path and host")
    path = _visible(params.get("path") or "/", "path")
    if not path.startswith("/"):
        raise ConfigError("path", f"{values.shown(path)} does not begin with /", f"write /{path}")
    name = f"[{host}]" if ":" in host else host
    name = _visible(params.get("host") or (name if port == 80 else f"{name}:{port}"), "host")
    lines = (f"GET {path} HTTP/1.1", f"Host: {name}", "User-Agent: natlb-probe", "Accept: */*", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _visible(value: Any, path: str) -> str:
    text = values.text(value, path)
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    raise ConfigError(path, f"{values.shown(text)} cannot stand in a request", "use visible ASCII without spaces")


def _fraction(value: Any, path: str, limit: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= limit and math.isfinite(value):
        return float(value)
    remedy = "0 or more; 0.1 allows a tenth" if math.isinf(limit) else "0 to 1, such as 0.001"
    raise ConfigError(path, f"{values.shown(value)} is not a fraction", remedy)


def _expected(value: Any) -> dict[str, float]:
    """Names and weights. A weight may be a share such as 0.25, or a text that Jinja2 made of a number."""
    if not isinstance(value, Mapping) or not value:
        raise ConfigError("expected", f"{values.shown(value)} names no backend", "write a mapping of names to weights")
    weights: dict[str, float] = {}
    for name, given in value.items():
        weight = math.nan
        if isinstance(given, (int, float, str)) and not isinstance(given, bool):
            with contextlib.suppress(ValueError):
                weight = float(given)
        if not 0 < weight < math.inf:
            raise ConfigError(
                f"expected.{values.shown(name).strip(chr(39))}",
                f"{values.shown(given)} is not a weight",
                "write a number above 0; leave a backend out that should not answer",
            )
        weights[str(name)] = weight
    return weights
