# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What /proc and /sys say about this host."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable

from .observation import observed


def read_unobserved(path: str) -> str:
    """The text of a file, or empty if it cannot be read. The read is not recorded."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


@observed
def read(path: str) -> str:
    """The text of a file, empty where it cannot be read."""
    return read_unobserved(path)


@observed
def memory_bytes() -> int:
    """The size of the host's memory, or 0 if it is not known."""
    for line in read("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def forwarded_packets() -> tuple[str, ...]:
    """What tells whether this host has forwarded a packet since another time."""
    four = [line.split() for line in read_unobserved("/proc/thread-self/net/snmp").splitlines() if line[:3] == "Ip:"]
    numbers = [dict(zip(*four)).get("ForwDatagrams", "")] if len(four) == 2 else [""]
    six = read_unobserved("/proc/thread-self/net/snmp6").splitlines()
    return (*numbers, *(line.split()[1] for line in six if line.startswith("Ip6OutForwDatagrams")))


def conntrack_statistics() -> str:
    return read("/proc/thread-self/net/stat/nf_conntrack")


def _inet6() -> Iterable[str]:
    """Each IPv6 address of this host."""
    for line in read("/proc/thread-self/net/if_inet6").splitlines():
        fields = line.split()
        if len(fields) >= 6:
            yield str(ipaddress.IPv6Address(bytes.fromhex(fields[0])))


@observed
def local_addresses() -> set[str]:
    """Every address of this host, loopback included."""
    return {*_inet6(), *(address for address, length in _local(read("/proc/thread-self/net/fib_trie")) if length == 32)}


@observed
def local_networks() -> list[str]:
    """The IPv4 networks all of whose addresses are of this host (`ip route add local NETWORK dev lo`)."""
    leaves = _local(read("/proc/thread-self/net/fib_trie"))
    return sorted({f"{address}/{length}" for address, length in leaves if length != 32})


def _local(trie: str) -> Iterable[tuple[str, int]]:
    """Addresses and lengths of what is LOCAL in fib_trie. Each stands in a line below its address."""
    address = ""
    for line in trie.splitlines():
        if "|-- " in line:
            address = line.rpartition("|-- ")[2].strip()
        elif line.strip().endswith("host LOCAL"):
            yield address, int(line.split()[0][1:])


@observed
def recent_list_size() -> int:
    """How many client addresses xt_recent remembers in one list."""
    text = read("/sys/module/xt_recent/parameters/ip_list_tot").strip()
    return int(text) if text.isdigit() else 100


@observed
def modules() -> set[str]:
    """The modules that the kernel has loaded, without those that are built into it."""
    return {line.partition(" ")[0] for line in read("/proc/modules").splitlines()}


def processor_s(pid: int) -> float:
    """Processor time of a process, and of its children that have ended; 0 where there is no such process."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def parent_environments() -> list[str]:
    """The environments of this process and its parents, NUL-separated; of those that may be read."""
    found = []
    pid = os.getpid()
    while pid > 1:
        found.append(read(f"/proc/{pid}/environ"))
        # The program's name stands in brackets and may hold anything; the parent's id is the second field behind it.
        fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 else 0
    return found
