# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opens connections to a service, counts the answers of each backend, and judges the spread.

`settings.py` has the settings, `answer.py` reads answers; `run` opens the connections, `outcome` judges.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, NatlbError
from ..model.values import endpoint
from .answer import MAX_ANSWER, responder
from .settings import Settings
from .spread import expected_counts, judge, percentile, spread_p

#: Distinct error messages that are reported; the rest is summed up.
MAX_MESSAGES = 5
#: Below this many expected answers the chi-square distribution is a poor approximation (Cochran 1954).
MIN_EXPECTED = 5.0
#: The place in the port range where a run begins goes round in this time, so that a run shortly after another one does
#: not meet the tracked UDP connections of that one: nf_conntrack_udp_timeout is 30 s.
PORT_CYCLE_S = 60.0
#: With `connect_only`, how long after a UDP datagram a refusal (ICMP port unreachable) is waited for.
REFUSAL_S = 0.25


@dataclass
class Tally:
    """What happened so far: answers by name, errors by message, and how long each answer took."""

    backends: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    #: With `connect_only`: what succeeded, and was asked nothing.
    connected: int = 0

    @property
    def errors(self) -> int:
        return sum(self.messages.values())

    @property
    def answers(self) -> int:
        return sum(self.backends.values())

    @property
    def made(self) -> int:
        return self.answers + self.connected + self.errors


@dataclass(frozen=True)
class Outcome:
    """`result` is what the module returns, `problems` is why it fails (empty where it does not)."""

    result: dict[str, Any]
    problems: list[str]
    warnings: list[str]


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

    async def name(self) -> str | None:
        """Who answers, or None where that is not asked. Raises OSError or `NatlbError`."""
        sock = await self._connect()
        try:
            self.stage = "answer"
            if not self.settings.connect_only:
                return await self._ask(sock)
            if self.settings.protocol == "udp":
                await self._send(sock)
            return None
        finally:
            sock.close()

    def name_so_far(self) -> str:
        """Who answered, of a server that neither ended its line nor closed. Raises `NatlbError`."""
        if self.received and self.settings.protocol == "tcp":
            name = responder(bytes(self.received), True, self.settings)
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

    async def _send(self, sock: socket.socket) -> None:
        """One datagram. Raises OSError where the host at the other end says that nobody is there."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, self.settings.payload)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(loop.sock_recv(sock, MAX_ANSWER), min(REFUSAL_S, self.settings.timeout_s / 2))

    async def _ask(self, sock: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        if self.settings.payload or self.settings.protocol == "udp":
            await loop.sock_sendall(sock, self.settings.payload)
        while True:
            chunk = await loop.sock_recv(sock, MAX_ANSWER)
            self.received += chunk
            name = responder(bytes(self.received[:MAX_ANSWER]), not chunk, self.settings)
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
            self.gave_up = self.tally.made == self.tally.errors >= enough

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
            if name is None:
                self.tally.connected += 1
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
        "connections": tally.made,
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
    made = tally.made
    if tally.errors > settings.max_errors:
        details = "; ".join(f"{row['message']} ({row['count']})" for row in _messages(tally.messages))
        gave_up = f", then gave up on the other {settings.connections - made}" if made < settings.connections else ""
        problems.append(
            f"{tally.errors} of {made} connections to {endpoint(settings.host, settings.port)} failed{gave_up} "
            f"(max_errors is {settings.max_errors}): {details}"
        )
    if settings.expected and tally.answers:
        verdict = judge(seen, settings.expected, settings.tolerance, settings.significance)
        problems += [verdict] if verdict else []
    return problems


def _warnings(settings: Settings, tally: Tally) -> list[str]:
    """They name the target: Ansible shows the same words once in a run, and so those of the first target alone."""
    if not settings.expected or settings.tolerance is not None or not tally.answers or len(settings.expected) < 2:
        return []
    fewest = min(expected_counts(settings.expected, tally.answers).values())
    if fewest >= MIN_EXPECTED:
        return []
    return [
        (
            f"{endpoint(settings.host, settings.port)}: a backend is expected to answer only {fewest:.2g} times, too "
            "few for the chi-square test to be sure; open more connections or set a tolerance"
        )
    ]
