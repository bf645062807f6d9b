# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens connections to a service, counts who answered, and judges whether the spread is the expected one.

`parse_settings` checks what was asked for, `run` opens the connections, `outcome` judges the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import io
import ipaddress
import itertools
import math
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from re import Pattern
from typing import Any, cast

from . import parse
from .errors import ConfigError, NatlbError
from .spread import expected_counts, judge, percentile, spread_p

PROTOCOLS = ("tcp", "http", "udp")
MAX_CONNECTIONS = 1_000_000
MAX_CONCURRENCY = 500
#: An answer is read up to here; who answered stands in its beginning.
MAX_ANSWER = 65536
#: Distinct error messages that are reported; the rest is summed up.
MAX_MESSAGES = 5
DEFAULT_SIGNIFICANCE = 0.001
DEFAULT_DATAGRAM = b"natlb-probe\n"
#: Below this many expected answers the chi-square distribution is a poor approximation (Cochran 1954).
MIN_EXPECTED = 5.0
#: The place in the port range where a run begins goes round in this time, so that a run shortly after another one does
#: not meet the tracked UDP connections of that one: nf_conntrack_udp_timeout is 30 s.
PORT_CYCLE_S = 60.0

_TARGET = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^\[\]:]+)):(?P<port>[^:]*)\Z")
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?\Z")
_TARGET_REMEDY = "write ADDRESS:PORT such as 192.0.2.10:80, [2001:db8::10]:80 or www.example.org:80"


@dataclass(frozen=True)
class Settings:
    """What to probe and what to expect. `expected` is None where any spread is right; then nothing is judged."""

    host: str
    port: int
    protocol: str
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


@dataclass
class Tally:
    """What happened so far: answers by name, errors by message, and how long each answer took."""

    backends: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(self.messages.values())

    @property
    def answers(self) -> int:
        return sum(self.backends.values())


@dataclass(frozen=True)
class Outcome:
    """`result` is what the module returns, `problems` is why it fails (empty where it does not)."""

    result: dict[str, Any]
    problems: list[str]
    warnings: list[str]


def parse_settings(params: Mapping[str, Any]) -> Settings:
    """The module's parameters as `Settings`; `ConfigError` with path and remedy where one makes no sense."""
    host, port = parse_target(params["target"])
    expected = None if params.get("expected") is None else _expected(params["expected"])
    tolerance, significance = params.get("tolerance"), params.get("significance")
    protocol = parse.choice(params["protocol"], "protocol", PROTOCOLS)
    return Settings(
        host=host,
        port=port,
        protocol=protocol,
        connections=parse.integer(params["connections"], "connections", 1, MAX_CONNECTIONS, "a number of connections"),
        concurrency=parse.integer(params["concurrency"], "concurrency", 1, MAX_CONCURRENCY, "a number of connections"),
        timeout_s=parse.duration(params["timeout"], "timeout", 0.01, 600),
        identify=_pattern(params.get("identify")),
        payload=_payload(params, protocol, host, port),
        statuses=tuple(
            parse.integer(item, at, 100, 599, "an HTTP status")
            for at, item in parse.one_or_more(params.get("status") or [], "status")
        ),
        source=None if params.get("source") is None else str(parse.address(params["source"], "source")),
        expected=expected,
        tolerance=None if tolerance is None else _fraction(tolerance, "tolerance", math.inf),
        significance=DEFAULT_SIGNIFICANCE if significance is None else _fraction(significance, "significance", 1.0),
        max_errors=parse.integer(params.get("max_errors", 0), "max_errors", 0, MAX_CONNECTIONS, "a number of errors"),
    )


def parse_target(value: Any) -> tuple[str, int]:
    """`192.0.2.10:80`, `[2001:db8::10]:80` or `www.example.org:80` as (host, port)."""
    match = _TARGET.match(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigError("target", f"{parse.shown(value)} is not an address with a port", _target_remedy(value))
    host = match.group("v6") or match.group("host")
    if match.group("v6"):
        if _ip_version(host) != 6:
            raise ConfigError("target", f"{parse.shown(host)} is not an IPv6 address", _TARGET_REMEDY)
    # A name of digits and dots only is an address gone wrong, and the resolver would guess at it.
    elif _ip_version(host) != 4 and (not _HOST_NAME.match(host) or re.fullmatch(r"[0-9.]+", host)):
        raise ConfigError("target", f"{parse.shown(host)} is neither an address nor a host name", _TARGET_REMEDY)
    return host, parse.port(match.group("port"), "target")


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
        return re.compile(parse.text(value, "identify"), re.MULTILINE)
    except re.error as error:
        raise ConfigError(
            "identify",
            f"{parse.shown(value)} is not a regular expression: {error}",
            "see Python's re; quote ( [ . * with \\",
        ) from None


def _payload(params: Mapping[str, Any], protocol: str, host: str, port: int) -> bytes:
    payload = params.get("payload")
    if protocol != "http":
        given = None if payload is None else parse.text(payload, "payload").encode()
        return given if given is not None else DEFAULT_DATAGRAM if protocol == "udp" else b""
    if payload is not None:
        raise ConfigError("payload", "goes with tcp and udp only", "for http set path and host")
    path = _visible(params.get("path") or "/", "path")
    if not path.startswith("/"):
        raise ConfigError("path", f"{parse.shown(path)} does not begin with /", f"write /{path}")
    name = f"[{host}]" if ":" in host else host
    name = _visible(params.get("host") or (name if port == 80 else f"{name}:{port}"), "host")
    lines = (f"GET {path} HTTP/1.1", f"Host: {name}", "User-Agent: natlb-probe", "Accept: */*", "Connection: close")
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _visible(value: Any, path: str) -> str:
    text = parse.text(value, path)
    if text.isascii() and text.isprintable() and " " not in text:
        return text
    raise ConfigError(path, f"{parse.shown(text)} cannot stand in a request", "use visible ASCII without spaces")


def _fraction(value: Any, path: str, limit: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= limit and math.isfinite(value):
        return float(value)
    remedy = "0 or more; 0.1 allows a tenth" if math.isinf(limit) else "0 to 1, such as 0.001"
    raise ConfigError(path, f"{parse.shown(value)} is not a fraction", remedy)


def _expected(value: Any) -> dict[str, float]:
    """Names and weights. A weight may be a share such as 0.25, or a text that Jinja2 made of a number."""
    if not isinstance(value, Mapping) or not value:
        raise ConfigError("expected", f"{parse.shown(value)} names no backend", "write a mapping of names to weights")
    weights: dict[str, float] = {}
    for name, given in value.items():
        weight = math.nan
        if isinstance(given, (int, float, str)) and not isinstance(given, bool):
            with contextlib.suppress(ValueError):
                weight = float(given)
        if not 0 < weight < math.inf:
            raise ConfigError(
                f"expected.{parse.shown(name).strip(chr(39))}",
                f"{parse.shown(given)} is not a weight",
                "write a number above 0; leave a backend out that should not answer",
            )
        weights[str(name)] = weight
    return weights


# --- What answers mean -----------------------------------------------------------------------------------------------


def identity(answer: str, pattern: Pattern[str] | None) -> str | None:
    """Who answered: group 1 of the pattern, or all that it matches, or without one the first word."""
    if pattern is None:
        words = answer.split(None, 1)
        return words[0] if words else None
    match = pattern.search(answer)
    if match is None:
        return None
    return (match.group(1) if pattern.groups else match.group(0)) or None


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    head: str
    body: str


class _Buffer:
    """What http.client asks of a socket, over bytes that are here already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_args: Any, **_kwargs: Any) -> io.BytesIO:
        return io.BytesIO(self._data)


def read_http(data: bytes, ended: bool) -> HttpAnswer | None:
    """The answer in `data`, or None while more of it is to come. `ended`: the peer closed.

    Raises `NatlbError` where it is not HTTP or was cut short. An answer longer than `MAX_ANSWER` is cut there.
    """
    head, separator, _rest = data.partition(b"\r\n\r\n")
    if not separator:
        if ended or len(data) >= MAX_ANSWER or not b"HTTP/".startswith(data[:5]):
            raise NatlbError("answer: is not HTTP")
        return None
    response = http.client.HTTPResponse(cast(socket.socket, _Buffer(data)))
    try:
        response.begin()
        if not ended and response.length is None and not response.chunked and len(data) < MAX_ANSWER:
            return None
        body = response.read()
    except http.client.IncompleteRead as error:
        body = error.partial
        if len(data) < MAX_ANSWER:
            if ended:
                raise NatlbError("answer: was cut short") from None
            return None
    except (http.client.HTTPException, ValueError):
        raise NatlbError("answer: is not HTTP") from None
    return HttpAnswer(response.status, head.decode(errors="replace"), body.decode(errors="replace"))


def who(data: bytes, ended: bool, settings: Settings) -> str | None:
    """The name in what was received so far, or None while it may still come.

    Raises `NatlbError`, with the message that is counted, where it cannot come any more. A TCP answer is read by whole
    lines, because half of one could hold half a name.
    """
    if settings.protocol == "http":
        answer = read_http(data, ended)
        if answer is None:
            return None
        if not _right_status(answer.status, settings.statuses):
            raise NatlbError(f"answer: HTTP status {answer.status}")
        texts: tuple[str, ...] = (answer.body, answer.head) if settings.identify else (answer.body,)
    else:
        whole = ended or settings.protocol == "udp" or len(data) >= MAX_ANSWER
        texts = ((data if whole else data[: data.rfind(b"\n") + 1]).decode(errors="replace"),)
    for text in texts:
        name = identity(text, settings.identify)
        if name is not None:
            return parse.shown(name) if not name.isprintable() else name[:253]
    if settings.protocol == "tcp" and not ended and len(data) < MAX_ANSWER:
        return None
    raise NatlbError(_nobody(texts[0]))


def _right_status(status: int, wanted: Sequence[int]) -> bool:
    return status in wanted if wanted else 200 <= status < 400


def _nobody(text: str) -> str:
    if not text.strip():
        return "answer: is empty"
    return f"answer: identify does not match {parse.shown(text[:200])}"


# --- Opening connections ---------------------------------------------------------------------------------------------


def local_ports() -> list[int]:
    """The ports that this host gives to outgoing connections, without the reserved ones (ip-sysctl.rst)."""
    low, high = 32768, 60999
    reserved: list[str] = []
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low, high = (int(word) for word in file.read().split())
        with open("/proc/sys/net/ipv4/ip_local_reserved_ports", encoding="ascii") as file:
            reserved = [item for item in file.read().strip().split(",") if item]
    except (OSError, ValueError):
        pass
    taken: set[int] = set()
    for item in reserved:
        first, _dash, last = item.partition("-")
        taken.update(range(int(first), int(last or first) + 1))
    return [port for port in range(max(low, 1), high + 1) if port not in taken]


def port_cycle(ports: Sequence[int], now_s: float) -> Iterator[int]:
    """The ports one after the other, for ever, from a place that moves on with the clock (see `PORT_CYCLE_S`)."""
    start = int(now_s / PORT_CYCLE_S * len(ports))
    index = 0
    while True:
        yield ports[(start + index) % len(ports)]
        index += 1


def resolve(settings: Settings) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The family and the socket address of the target: the first one that its name stands for."""
    family = socket.AF_UNSPEC
    if settings.source is not None:
        family = socket.AF_INET6 if ":" in settings.source else socket.AF_INET
    try:
        found = socket.getaddrinfo(settings.host, settings.port, family=family, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        wanted = {socket.AF_INET: " to an IPv4 address", socket.AF_INET6: " to an IPv6 address"}.get(family, "")
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            "target",
            f"{settings.host} cannot be resolved{wanted}: {reason}",
            f"write {'an address of the same family as the source' if wanted else 'an address'}",
        ) from None
    return found[0][0], found[0][4]


def check_source(source: str, family: socket.AddressFamily) -> None:
    """Refuse a source address that is not one of this host's."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((source, 0))
        except OSError as error:
            raise ConfigError(
                "source", f"{source} cannot be used: {os.strerror(error.errno or 0)}", "use an address of this host"
            ) from None


@dataclass(frozen=True)
class _Route:
    """How a run reaches its target. `ports` are drawn by all connections of the run."""

    family: socket.AddressFamily
    address: tuple[Any, ...]
    ports: Iterator[int]
    attempts: int


class _Connection:
    """One connection. When it is stopped from outside, `stage` and `received` tell how far it had come."""

    def __init__(self, settings: Settings, route: _Route) -> None:
        self.settings = settings
        self.route = route
        self.stage = "connect"
        self.received = bytearray()

    async def name(self) -> str:
        """Who answers. Raises OSError or `NatlbError`."""
        sock = await self._connect()
        try:
            self.stage = "answer"
            return await self._ask(sock)
        finally:
            sock.close()

    def name_so_far(self) -> str:
        """Who answered, of a server that neither ended its line nor closed. Raises `NatlbError`."""
        if self.received and self.settings.protocol == "tcp":
            name = who(bytes(self.received), True, self.settings)
            if name is not None:
                return name
        raise NatlbError(f"{self.stage}: timed out")

    async def _connect(self) -> socket.socket:
        """A connected socket with the next free source port."""
        kind = socket.SOCK_DGRAM if self.settings.protocol == "udp" else socket.SOCK_STREAM
        loop = asyncio.get_running_loop()
        for port in itertools.islice(self.route.ports, self.route.attempts):
            if port == self.settings.port:
                # On a loopback address it would be connected to itself.
                continue
            sock = socket.socket(self.route.family, kind)
            try:
                sock.setblocking(False)
                if kind == socket.SOCK_STREAM:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((self.settings.source or "", port))
                await loop.sock_connect(sock, self.route.address)
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError) or error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
            else:
                return sock
        raise OSError(errno.EADDRNOTAVAIL, "no free local port")

    async def _ask(self, sock: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        if self.settings.payload or self.settings.protocol == "udp":
            await loop.sock_sendall(sock, self.settings.payload)
        while True:
            chunk = await loop.sock_recv(sock, MAX_ANSWER)
            self.received += chunk
            name = who(bytes(self.received[:MAX_ANSWER]), not chunk, self.settings)
            if name is not None:
                return name


class _Prober:
    """Opens the connections of one run, `concurrency` at a time."""

    def __init__(self, settings: Settings, route: _Route) -> None:
        self.settings = settings
        self.route = route
        self.tally = Tally()
        self.left = settings.connections
        self.gave_up = False

    async def run(self) -> None:
        await asyncio.gather(*(self._worker() for _worker in range(min(self.settings.concurrency, self.left))))

    async def _worker(self) -> None:
        # A target that never answers would cost a time-out for every connection that was asked for.
        enough = max(self.settings.concurrency, self.settings.max_errors + 1)
        while self.left and not self.gave_up:
            self.left -= 1
            await self._one()
            self.gave_up = not self.tally.answers and self.tally.errors >= enough

    async def _one(self) -> None:
        """One connection, into the tally."""
        connection = _Connection(self.settings, self.route)
        started = time.perf_counter()
        try:
            try:
                name = await asyncio.wait_for(connection.name(), self.settings.timeout_s)
            except asyncio.TimeoutError:
                name = connection.name_so_far()
        except NatlbError as error:
            self.tally.messages[str(error)] += 1
        except OSError as error:
            self.tally.messages[f"{connection.stage}: {os.strerror(error.errno or errno.EIO)}"] += 1
        else:
            self.tally.backends[name] += 1
            self.tally.latencies_ms.append((time.perf_counter() - started) * 1000)


def run(settings: Settings) -> Outcome:
    """Open the connections and judge the answers. Raises `ConfigError` where the target cannot even be tried.

    Takes `timeout_s` times `connections / concurrency` at the most, and gives up early while nothing answers at all.
    """
    ports = local_ports()
    if settings.protocol == "udp" and settings.connections > len(ports):
        raise ConfigError(
            "connections",
            f"{settings.connections} are more than the {len(ports)} local ports of this host, "
            "and with UDP the same port again is the same connection",
            f"{len(ports)} or fewer, or widen net.ipv4.ip_local_port_range",
        )
    family, address = resolve(settings)
    if settings.source is not None:
        check_source(settings.source, family)
    prober = _Prober(settings, _Route(family, address, port_cycle(ports, time.time()), min(len(ports), 2000)))
    asyncio.run(prober.run())
    return outcome(settings, prober.tally)


def outcome(settings: Settings, tally: Tally) -> Outcome:
    """What the module returns, and why it fails."""
    expected = settings.expected
    seen = {**dict.fromkeys(expected or {}, 0), **dict(sorted(tally.backends.items()))}
    result: dict[str, Any] = {
        "backends": seen,
        "connections": tally.answers + tally.errors,
        "errors": tally.errors,
        "error_messages": _messages(tally.messages),
        "latency_ms": {"p50": _ms(tally.latencies_ms, 0.5), "p99": _ms(tally.latencies_ms, 0.99)},
        "p_value": spread_p(seen, expected) if expected and tally.answers else None,
    }
    return Outcome(result, _problems(settings, tally, seen), _warnings(settings, tally))


def _ms(values: Sequence[float], share: float) -> float | None:
    value = percentile(values, share)
    return None if value is None else round(value, 3)


def _messages(messages: Counter[str]) -> list[dict[str, Any]]:
    """The most frequent messages, and what the others add up to."""
    rows = [{"message": text, "count": count} for text, count in messages.most_common(MAX_MESSAGES)]
    rest = sum(messages.values()) - sum(count for _text, count in messages.most_common(MAX_MESSAGES))
    return rows + ([{"message": "others", "count": rest}] if rest else [])


def _problems(settings: Settings, tally: Tally, seen: Mapping[str, int]) -> list[str]:
    problems = []
    made = tally.answers + tally.errors
    if tally.errors > settings.max_errors:
        details = "; ".join(f"{row['message']} ({row['count']})" for row in _messages(tally.messages))
        gave_up = f", then gave up on the other {settings.connections - made}" if made < settings.connections else ""
        target = f"[{settings.host}]" if ":" in settings.host else settings.host
        problems.append(
            f"{tally.errors} of {made} connections to {target}:{settings.port} failed{gave_up} "
            f"(max_errors is {settings.max_errors}): {details}"
        )
    if settings.expected and tally.answers:
        verdict = judge(seen, settings.expected, settings.tolerance, settings.significance)
        problems += [verdict] if verdict else []
    return problems


def _warnings(settings: Settings, tally: Tally) -> list[str]:
    if not settings.expected or settings.tolerance is not None or not tally.answers or len(settings.expected) < 2:
        return []
    fewest = min(expected_counts(settings.expected, tally.answers).values())
    if fewest >= MIN_EXPECTED:
        return []
    return [
        (
            f"a backend is expected to answer only {fewest:.2g} times, too few for the chi-square test to be sure; "
            "open more connections or set a tolerance"
        )
    ]
