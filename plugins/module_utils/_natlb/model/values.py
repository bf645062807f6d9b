# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Converts single values from the user's input.

YAML and Jinja2 may pass a number as `80` or as `"80"`, and a list of one item as the item. This file normalises that
once, so that no other code has to. Every function takes the value and its path, and raises `ConfigError` with that
path.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar, Union

from ..errors import ConfigError

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Choice = TypeVar("Choice", bound=str)

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
_LOG_PREFIX = re.compile(r"[A-Za-z0-9 .:/=#%+_,()\[\]<>-]{1,29}\Z")
# dev_valid_name() in the kernel's net/core/dev.c: at most 15 bytes, no slash, colon or white space; what is left
# out beyond that (quotes, wildcards) would mean something else to nft or to iptables.
# A leading - would be an option to some program, and `ip` writes an @ and the other end of a link behind its name.
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")
#: RFC 1123, 2.1. The last label of a name is never a number.
_HOST_NAME = re.compile(
    r"(?!.{254})(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?\.?\Z", re.I
)
_BRACKETED = re.compile(r"\[([^\]]*)\](?::(.*))?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?\Z")
_UNIT_S = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS = ("ms", "s", "m", "h", "d")
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def endpoint(address: str, port: object) -> str:
    """Address and port as people write them; the address alone where there is no port."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def taken_apart(text: str) -> tuple[str, str | None]:
    """Address and port of what `endpoint` writes, as they stand there; without a port, None. Neither is checked."""
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed:
        return bracketed[1], bracketed[2]
    if text.count(":") == 1:
        host, _colon, port = text.partition(":")
        return host, port
    return text, None


def shown(value: Any) -> str:
    """A value as it may stand in a message: short, on one line."""
    text = repr(value) if isinstance(value, (str, bytes)) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def sequence(value: Any, path: str) -> list[Any]:
    """A list; anything else is refused."""
    if isinstance(value, (list, tuple)):
        return list(value)
    raise ConfigError(path, f"{shown(value)} is not a list", "write a list")


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Those of a list that is read with care, since another version may have written it."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def one_or_more(value: Any, path: str) -> list[tuple[str, Any]]:
    """A list, a text with commas between its items, or one value that stands for a list of one, as (path, value)."""
    if isinstance(value, (list, tuple)):
        return [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, str) and "," in value:
        return [(path, item.strip()) for item in value.split(",")]
    return [(path, value)]


def text(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    raise ConfigError(path, f"{shown(value)} is not a text", "write it as text, in quotes if need be")


def name(value: Any, path: str) -> str:
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(value, str) and _NAME.match(value):
        return value
    raise ConfigError(
        path,
        f"{shown(value)} is not a name",
        "use 1 to 63 of a-z, 0-9, _ and -, with a letter or digit first",
    )


def backend_name(value: Any, path: str) -> str:
    """The name of a backend; YAML takes `5` for a number."""
    found = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if isinstance(found, str) and 0 < len(found) <= 253 and found.isascii() and found.isprintable():
        return found
    raise ConfigError(path, f"{shown(found)} is not a name", "use up to 253 visible ASCII characters")


def log_prefix(value: Any, path: str) -> str:
    """What begins each line in the log of the kernel, as long as both engines take it (struct xt_log_info of Linux)."""
    if isinstance(value, str) and _LOG_PREFIX.match(value):
        return value
    remedy = "use 1 to 29 letters, digits, spaces and characters of . : / = # % + - _ , ( ) [ ] < >"
    raise ConfigError(path, f"{shown(value)} is not a prefix for the log", remedy)


def choice(value: Any, path: str, choices: Sequence[Choice]) -> Choice:
    """One of the choices, as typed."""
    for each in choices:
        if each == value:
            return each
    raise ConfigError(path, f"{shown(value)} is not a choice here", f"choose one of {', '.join(choices)}")


def boolean(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    lowered = str(value).lower() if isinstance(value, (str, int)) else ""
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ConfigError(path, f"{shown(value)} is neither true nor false", "write true or false")


def integer(value: Any, path: str, low: int, high: int, what: str = "a whole number") -> int:
    """A whole number from `low` to `high`, or a text that is one."""
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,12}", value):
        number = int(value)
    if number is None or not low <= number <= high:
        raise ConfigError(path, f"{shown(value)} is not {what}", f"{low}-{high}")
    return number


def port(value: Any, path: str) -> int:
    return integer(value, path, 1, 65535, "a port")


def port_range(value: str, path: str) -> tuple[int, int]:
    """`80` or `8000-8010`, as (first, last)."""
    first, dash, last = value.partition("-")
    if not re.fullmatch(r"[0-9]{1,12}", first) or (dash and not re.fullmatch(r"[0-9]{1,12}", last)):
        raise ConfigError(path, f"{shown(value)} is not a port", "1-65535, or a range such as 8000-8010")
    low = port(first, path)
    high = port(last, path) if dash else low
    if low > high:
        raise ConfigError(path, f"the range {value} ends before it begins", f"write {high}-{low}")
    return low, high


def duration(value: Any, path: str, low_s: float, high_s: float, units: Sequence[str] = _UNITS) -> float:
    """Seconds: a number, or one with a unit (`500ms`, `30s`, `5m`, `3h`, `1d`); `units` are those to offer."""
    seconds: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        # An integer may be too large to be a float; it is out of any range then.
        seconds = float(value) if abs(value) < 2**63 else float("inf")
    elif isinstance(value, str):
        match = _DURATION.match(value)
        if match and len(value) <= 20:
            seconds = float(match.group(1)) * _UNIT_S[match.group(2)]
    if seconds is None:
        offered = f"{', '.join(units[:-1])} or {units[-1]}"
        raise ConfigError(path, f"{shown(value)} is not a time", f"write seconds, or a number with {offered}")
    if not low_s <= seconds <= high_s:
        raise ConfigError(path, f"{shown(value)} is out of range", f"{low_s:g} to {high_s:g} seconds")
    return seconds


def whole_seconds(value: Any, path: str, low_s: int, high_s: int) -> int:
    """A duration for a kernel that counts in seconds: a part of one is refused, not dropped."""
    seconds = duration(value, path, low_s, high_s, _UNITS[1:])
    whole = round(seconds)
    if abs(seconds - whole) > 1e-6:
        near = f"{int(seconds)}s or {int(seconds) + 1}s" if seconds > 1 else "1s, or 0 for none" if low_s == 0 else "1s"
        raise ConfigError(path, f"{shown(value)} is not a whole number of seconds", f"write {near}")
    return whole


def is_host_name(value: str) -> bool:
    """Whether it is written as the name of a host."""
    return bool(_HOST_NAME.match(value))


@lru_cache(maxsize=65536)
def _address(value: str) -> Address | None:
    """The parsed address; of ten thousand services many share their backends."""
    try:
        parsed = ipaddress.ip_address(value)
    except ValueError:
        return None
    return parsed if getattr(parsed, "scope_id", None) is None else None


def address(value: Any, path: str) -> Address:
    """An IPv4 or IPv6 address without a zone, in any spelling but that of an IPv4 address as an IPv6 one."""
    parsed = _address(value) if isinstance(value, str) else None
    if parsed is not None:
        mapped = getattr(parsed, "ipv4_mapped", None)
        if mapped is not None:
            raise ConfigError(
                path, f"{value} is an IPv4 address in IPv6 notation, which no packet has", f"write {mapped}"
            )
        return parsed
    remedy = "write one such as 192.0.2.10 or 2001:db8::10"
    if isinstance(value, str) and is_host_name(value):
        remedy = "write its address, or have the controller look it up with the filter natlb.netfilter.to_addresses"
    raise ConfigError(path, f"{shown(value)} is not an IP address", remedy)


def host_address(value: Any, path: str) -> Address:
    """An address that one host can have: not unspecified, loopback, multicast, broadcast or link-local IPv6."""
    parsed = address(value, path)
    fault = _fault(parsed)
    if fault is not None:
        raise ConfigError(path, f"{parsed} {fault[0]}", fault[1])
    return parsed


_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


@lru_cache(maxsize=65536)
def _fault(address: Address) -> tuple[str, str] | None:
    """Why no host can have the address, and the remedy."""
    if address.is_unspecified:
        return "is no host's address", 'for every local address of the balancer write "*"'
    if address.is_loopback:
        problem = "is a loopback address, which NAT cannot reach from outside"
        return problem, "use an address of one of the host's interfaces"
    if address.is_multicast or address == _BROADCAST:
        return "is not a unicast address", "NAT balances unicast traffic only"
    if address.version == 6 and address.is_link_local:
        return "is a link-local address", "use a global or unique local (fd00::/8) address"
    return None


_USUAL = re.compile(r"([0-9.]{7,15})/([0-9]|[12][0-9]|3[0-2])\Z")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def network(value: Any, path: str) -> Network:
    """`198.51.100.0/24`, or an address, which stands for itself alone. Bits behind the prefix are refused."""
    if isinstance(value, str):
        try:
            return _on_the_wire(ipaddress.ip_network(value), path)
        except ValueError:
            pass
        try:
            loose = ipaddress.ip_network(value, strict=False)
        except ValueError:
            pass
        else:
            raise ConfigError(path, f"{value} has bits set behind its prefix", f"write {loose}")
    raise ConfigError(path, f"{shown(value)} is not a network", "write one such as 198.51.100.0/24 or 2001:db8::/32")


def network_text(value: Any, path: str) -> str:
    """The same as text. Most lines of long lists are in the spelling that it has, which is quick to tell."""
    usual = _USUAL.match(value) if isinstance(value, str) else None
    if usual:
        with contextlib.suppress(OSError):
            packed = socket.inet_pton(socket.AF_INET, usual[1])
            rest = 0xFFFFFFFF >> int(usual[2])
            if not int.from_bytes(packed, "big") & rest and socket.inet_ntop(socket.AF_INET, packed) == usual[1]:
                return str(value)
    return str(network(value, path))


def _on_the_wire(parsed: Network, path: str) -> Network:
    """Refuses IPv4 networks in the notation of IPv6, which is for sockets: no packet has such an address."""
    if isinstance(parsed, ipaddress.IPv6Network) and parsed.subnet_of(_MAPPED):
        first, length = parsed.network_address.ipv4_mapped, parsed.prefixlen - 96
        raise ConfigError(
            path, f"{parsed} are IPv4 addresses in IPv6 notation, which no packet has", f"write {first}/{length}"
        )
    return parsed


def interface(value: Any, path: str) -> str:
    if isinstance(value, str) and _INTERFACE.match(value):
        return value
    name = value.partition("@")[0] if isinstance(value, str) else ""
    if _INTERFACE.match(name) and name != value:
        raise ConfigError(path, f"{shown(value)} is how `ip link` shows the interface {name}", f"write {name}")
    raise ConfigError(
        path,
        f"{shown(value)} is not the name of an interface",
        "1 to 15 letters, digits, _ . or -; the first a letter, a digit or _",
    )
