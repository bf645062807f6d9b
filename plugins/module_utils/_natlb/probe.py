# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens connections to a service, counts who answered, and judges whether the spread is the expected one.

`parse_settings` checks what was asked for, `run` opens the connections, `chi_square_p` and `judge` are pure.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import io
import ipaddress
import math
import os
import re
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Mapping, Optional, Pattern, Sequence, Tuple, cast

from . import parse
from .errors import ConfigError, NatlbError

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
#: A source port comes round again after this long at the earliest, so that a second run shortly after the first does not
#: meet the tracked UDP connections of the first: nf_conntrack_udp_timeout is 30 s.
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
    identify: Optional[Pattern[str]]
    payload: bytes
    statuses: Tuple[int, ...]
    source: Optional[str]
    expected: Optional[Dict[str, float]]
    tolerance: Optional[float]
    significance: float
    max_errors: int


@dataclass
class Tally:
    """What happened so far: answers by name, errors by message, and how long each answer took."""

    backends: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    latencies_ms: List[float] = field(default_factory=list)

    @property
    def errors(self) -> int:
        return sum(self.messages.values())

    @property
    def answers(self) -> int:
        return sum(self.backends.values())


@dataclass(frozen=True)
class Outcome:
    """`result` is what the module returns, `problems` is why it fails (empty where it does not)."""

    result: Dict[str, Any]
    problems: List[str]
    warnings: List[str]


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


def parse_target(value: Any) -> Tuple[str, int]:
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
        return f"an IPv6 address with a port is written [{value}]:80"
    return _TARGET_REMEDY


def _ip_version(text: str) -> Optional[int]:
    try:
        return ipaddress.ip_address(text).version
    except ValueError:
        return None


def _pattern(value: Any) -> Optional[Pattern[str]]:
    if value is None or value == "":
        return None
    try:
        return re.compile(parse.text(value, "identify"), re.MULTILINE)
    except re.error as error:
        raise ConfigError(
            "identify", f"{parse.shown(value)} is not a regular expression: {error}", "see Python's re; quote ( [ . * with \\"
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
    return "\r\n".join(lines + ("", "")).encode("ascii")


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


def _expected(value: Any) -> Dict[str, float]:
    """Names and weights. A weight may be a share such as 0.25, or a text that Jinja2 made of a number."""
    if not isinstance(value, Mapping) or not value:
        raise ConfigError("expected", f"{parse.shown(value)} names no backend", "write a mapping of names to weights")
    weights: Dict[str, float] = {}
    for name, given in value.items():
        weight = math.nan
        if isinstance(given, (int, float, str)) and not isinstance(given, bool):
            try:
                weight = float(given)
            except ValueError:
                pass
        if not 0 < weight < math.inf:
            raise ConfigError(
                f"expected.{parse.shown(name).strip(chr(39))}",
                f"{parse.shown(given)} is not a weight",
                "write a number above 0; leave a backend out that should not answer",
            )
        weights[str(name)] = weight
    return weights


# --- What answers mean -----------------------------------------------------------------------------------------------


def chi_square_p(statistic: float, degrees: int) -> float:
    """How likely a chi-square statistic at least this large is by chance, with `degrees` degrees of freedom.

    That is the regularised incomplete gamma function Q(degrees/2, statistic/2). As `degrees` is a whole number, the
    recurrence Q(a+1, x) = Q(a, x) + x^a e^-x / Gamma(a+1) (DLMF 8.8.6) reaches it from Q(1, x) = e^-x (DLMF 8.4.5) or
    Q(1/2, x) = erfc(sqrt(x)) (DLMF 8.4.6) in degrees/2 steps. All terms are positive, so nothing cancels.
    """
    if degrees < 1 or statistic <= 0:
        return 1.0
    if math.isinf(statistic):
        return 0.0
    x = statistic / 2
    a = 1.0 if degrees % 2 == 0 else 0.5
    q = math.exp(-x) if degrees % 2 == 0 else math.erfc(math.sqrt(x))
    while a < degrees / 2:
        q += math.exp(a * math.log(x) - x - math.lgamma(a + 1))
        a += 1
    return min(q, 1.0)


def expected_counts(expected: Mapping[str, float], total: int) -> Dict[str, float]:
    """`total` answers shared out in proportion to the weights."""
    whole = math.fsum(expected.values())
    return {name: total * weight / whole for name, weight in expected.items()}


def spread_p(seen: Mapping[str, int], expected: Mapping[str, float]) -> float:
    """Pearson's chi-square test of the counts against the weights. An answer from elsewhere makes it 0."""
    if any(count for name, count in seen.items() if name not in expected):
        return 0.0
    total = sum(seen.values())
    if total == 0:
        return 0.0
    wanted = expected_counts(expected, total)
    return chi_square_p(math.fsum((seen.get(n, 0) - want) ** 2 / want for n, want in wanted.items()), len(wanted) - 1)


def judge(
    seen: Mapping[str, int], expected: Mapping[str, float], tolerance: Optional[float], significance: float
) -> Optional[str]:
    """None where the spread is the expected one, else a message that names every backend.

    With a tolerance each count may be off by that fraction of the expected one; an expected count that is no whole
    number may be rounded either way first. Without one the chi-square test must not fall below `significance`.
    """
    total = sum(seen.values())
    wanted = expected_counts(expected, total)
    strangers = sorted(name for name, count in seen.items() if count and name not in wanted)
    if tolerance is None:
        p = spread_p(seen, expected)
        right, why = p >= significance, f"p = {p:.2g}, the limit is {significance:g}"
    else:
        right = all(_within(seen.get(name, 0), want, tolerance) for name, want in wanted.items())
        why = f"tolerance {tolerance:g}"
    if right and total and not strangers:
        return None
    rows = [f"{name}: expected {want:.6g}, seen {seen.get(name, 0)}" for name, want in wanted.items()]
    rows += [f"{name}: expected none, seen {seen[name]}" for name in strangers]
    return f"the spread of {total} answers is not the expected one ({why}): " + "; ".join(rows)


def _within(seen: int, want: float, tolerance: float) -> bool:
    # The small term is for shares such as 0.1 + 0.2, whose product is a hair beside the whole number that is meant.
    hair = 1e-6 * max(1.0, want)
    slack = tolerance * want + hair
    return math.floor(want + hair) - slack <= seen <= math.ceil(want - hair) + slack


def identity(answer: str, pattern: Optional[Pattern[str]]) -> Optional[str]:
    """Who answered: group 1 of the pattern, or all that it matches, or without one the first word."""
    if pattern is None:
        words = answer.split(None, 1)
        return words[0] if words else None
    match = pattern.search(answer)
    if match is None:
        return None
    return (match.group(1) if pattern.groups else match.group(0)) or None


def percentile(values: Sequence[float], share: float) -> Optional[float]:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); None of no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


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


def read_http(data: bytes, ended: bool) -> Optional[HttpAnswer]:
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


def who(data: bytes, ended: bool, settings: Settings) -> Optional[str]:
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
        texts: Tuple[str, ...] = (answer.body, answer.head) if settings.identify else (answer.body,)
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


def local_ports() -> List[int]:
    """The ports that this host gives to outgoing connections, without the reserved ones (ip-sysctl.rst)."""
    low, high = 32768, 60999
    reserved: List[str] = []
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as file:
            low, high = (int(word) for word in file.read().split())
        with open("/proc/sys/net/ipv4/ip_local_reserved_ports", encoding="ascii") as file:
            reserved = [item for item in file.read().strip().split(",") if item]
    except (OSError, ValueError):
        pass
    taken = set()
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


def resolve(settings: Settings) -> Tuple[socket.AddressFamily, Tuple[Any, ...]]:
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
            "target", f"{settings.host} cannot be resolved{wanted}: {reason}", "use an address, one of the source's family"
        ) from None
    return found[0][0], found[0][4]


def _reason(error: OSError) -> str:
    if error.errno in (None, errno.ETIMEDOUT) or isinstance(error, asyncio.TimeoutError):
        return "timed out"
    return os.strerror(error.errno or 0)


class _Prober:
    """Opens the connections of one run, `concurrency` at a time."""

    def __init__(self, settings: Settings, ports: Sequence[int]) -> None:
        self.settings = settings
        self.family, self.address = resolve(settings)
        self.ports = port_cycle(ports, time.time())
        self.port_count = len(ports)
        self.tally = Tally()
        self.left = settings.connections
        self.gave_up = False

    async def run(self) -> None:
        await asyncio.gather(*(self._worker() for _ in range(min(self.settings.concurrency, self.left))))

    async def _worker(self) -> None:
        while self.left and not self.gave_up:
            self.left -= 1
            await self._one()
            tally = self.tally
            # A target that never answers would cost a time-out for every connection that was asked for.
            many = max(self.settings.concurrency, self.settings.max_errors + 1)
            self.gave_up = not tally.answers and tally.errors >= many

    async def _one(self) -> None:
        """One connection, into the tally."""
        try:
            sock = await asyncio.wait_for(self._connect(), self.settings.timeout_s)
        except (OSError, asyncio.TimeoutError) as error:
            self.tally.messages[f"connect: {_reason(error) if isinstance(error, OSError) else 'timed out'}"] += 1
            return
        received = bytearray()
        try:
            name = await asyncio.wait_for(self._ask(sock, received), self.opened + self.settings.timeout_s - _now())
        except asyncio.TimeoutError:
            self._too_late(bytes(received))
        except OSError as error:
            self.tally.messages[f"answer: {_reason(error)}"] += 1
        except NatlbError as error:
            self.tally.messages[str(error)] += 1
        finally:
            sock.close()
