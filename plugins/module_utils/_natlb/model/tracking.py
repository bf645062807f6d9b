# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection tracking table: its size, the timeouts of its entries, and its fill level.

A full table silently drops packets, and a NAT load balancer has an entry for every connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import values
from .reading import Reading

#: One entry per 16 KiB of memory, and not above four million: an entry takes about 400 bytes (nf_conntrack and its
#: extensions), so a full table takes 2.5 % of the memory.
BYTES_PER_ENTRY = 16384
LARGEST_AUTO = 4194304
#: From this fill level on there is a warning.
WARN_FROM = 0.8

_MAX = "net/netfilter/nf_conntrack_max"
#: A pointer of the kernel's, in bytes (64 bits).
_POINTER = 8
KEYS = ("max", "buckets", "timeouts")
_BUCKETS = "net/netfilter/nf_conntrack_buckets"
TIMEOUTS = {
    "tcp_established": "net/netfilter/nf_conntrack_tcp_timeout_established",
    "tcp_time_wait": "net/netfilter/nf_conntrack_tcp_timeout_time_wait",
    "udp": "net/netfilter/nf_conntrack_udp_timeout",
    "udp_stream": "net/netfilter/nf_conntrack_udp_timeout_stream",
    "sctp_established": "net/netfilter/nf_conntrack_sctp_timeout_established",
}


@dataclass(frozen=True)
class Tracking:
    """The wanted settings of the table. `entries` None leaves its size alone, 0 derives it from the memory of the
    host."""

    entries: int | None = None
    buckets: int | None = None
    #: (sysctl, seconds)
    timeouts: tuple[tuple[str, int], ...] = ()


def parse_tracking(value: Any) -> Tracking:
    """Read `natlb_conntrack`. Raises `ConfigErrors` with all that is wrong."""
    if value is None:
        return Tracking()
    reading = Reading()
    given = reading.mapping(value, "conntrack", KEYS)
    entries = reading.read(_entries, given.get("max"), "conntrack.max", otherwise=None)
    buckets = reading.read(_buckets, given.get("buckets"), "conntrack.buckets", otherwise=None)
    if buckets and entries == 0:
        reading.add("conntrack.buckets", "cannot be combined with max: auto", "auto sets both; name a max, or drop it")
    most = reading.mapping(given.get("timeouts", {}), "conntrack.timeouts", tuple(TIMEOUTS))
    timeouts = tuple(
        (name, reading.read(values.whole_seconds, most[key], f"conntrack.timeouts.{key}", 1, 86400 * 30, otherwise=1))
        for key, name in sorted(TIMEOUTS.items())
        if key in most
    )
    reading.done()
    return Tracking(entries, buckets, timeouts)


def _entries(value: Any, path: str) -> int | None:
    if value is None or value == "auto":
        return None if value is None else 0
    return values.integer(value, path, 1024, 2**31 - 1, "a size or auto")


def _buckets(value: Any, path: str) -> int | None:
    return None if value is None else values.integer(value, path, 1024, 2**30, "a number of buckets")


def dump_tracking(tracking: Tracking) -> dict[str, Any]:
    """As a user could have typed it: `parse_tracking(dump_tracking(t))` is `t` again."""
    found: dict[str, Any] = {}
    if tracking.entries is not None:
        found["max"] = tracking.entries or "auto"
    if tracking.buckets is not None:
        found["buckets"] = tracking.buckets
    seconds = dict(tracking.timeouts)
    timeouts = {key: seconds[name] for key, name in TIMEOUTS.items() if name in seconds}
    return {**found, **({"timeouts": timeouts} if timeouts else {})}


def settings(tracking: Tracking, memory: int, current: Mapping[str, int], page: int = 4096) -> dict[str, str]:
    """Kernel settings by name with slashes, for a host with so many bytes of memory, in pages of so many.

    A size taken from the memory never makes the table smaller. Buckets follow the kernel's own choice of one per entry,
    so that an entry of a full table is still found in one or two steps.
    """
    found: dict[str, int] = dict(tracking.timeouts)
    entries, buckets = tracking.entries, tracking.buckets
    if entries == 0:
        entries = max(min(_rounded(memory // BYTES_PER_ENTRY), LARGEST_AUTO), current.get(_MAX, 0))
    if entries is not None:
        found[_MAX] = entries
        buckets = buckets or max(entries, current.get(_BUCKETS, 0))
    if buckets is not None:
        # The kernel rounds them up to whole pages of pointers (nf_ct_alloc_hashtable).
        found[_BUCKETS] = -(-buckets // (page // _POINTER)) * (page // _POINTER)
    return {name: str(value) for name, value in found.items()}


def _rounded(entries: int) -> int:
    """Up to an eighth of the power of two below. How much memory a host has is told to the kilobyte, and another kernel
    keeps a little more or less of it for itself: that must not make another table."""
    step = max(1, (1 << entries.bit_length()) // 16)
    return -(-entries // step) * step


def names() -> list[str]:
    """The settings that say how large the table is now."""
    return [_MAX, _BUCKETS]


def statistics(text: str) -> dict[str, int]:
    """Losses since the kernel started, from /proc/net/stat/nf_conntrack: a line of hexadecimal numbers per CPU.

    `drop`: no room, or not to be inserted; `early_drop`: another entry was thrown out to make room; `insert_failed`: a
    clash, as when no source port was free.
    """
    lines = [line.split() for line in text.splitlines()]
    found = dict.fromkeys(("drop", "early_drop", "insert_failed"), 0)
    for line in lines[1:]:
        for name, value in zip(lines[0], line):
            if name in found:
                found[name] += int(value, 16)
    return found


def fill_warning(count: int, most: int) -> str | None:
    """What to say of a table that is nearly full."""
    if not most or count < WARN_FROM * most:
        return None
    return (
        f"the connection tracking table is {100 * count // most} % full ({count} of {most}); a full table silently "
        f"drops new connections: raise conntrack.max"
    )
