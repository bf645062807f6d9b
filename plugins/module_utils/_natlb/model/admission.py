# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which clients a service admits: of the networks in `allow_from` and `deny_from`, the one with the longest prefix
decides. Where none has the client, it is admitted unless there is an `allow_from`. Pure.
"""

from __future__ import annotations

import bisect
import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache

from .ranges import Range, collapsed, number_range

_TOP = {"ip": 2**32 - 1, "ip6": 2**128 - 1}


class Admission:
    """Clients of one family: only those of some networks, which do not overlap, or all but those."""

    def __init__(self, networks: Iterable[str], only: bool) -> None:
        self.networks, self.only = tuple(networks), only

    @cached_property
    def _ranges(self) -> list[Range]:
        return sorted(map(number_range, self.networks))

    def admits(self, client: str) -> bool:
        """Whether a client at this address, which is of the same family, is admitted."""
        number = int(ipaddress.ip_address(client))
        at = bisect.bisect_right(self._ranges, (number, _TOP["ip6"])) - 1
        return self.only == (at >= 0 and number <= self._ranges[at][1])


@lru_cache(maxsize=64)
def admission(allow: tuple[str, ...], deny: tuple[str, ...], family: str) -> Admission | None:
    """The clients of a family that these lists admit; None where that is everybody.

    A list that stands alone has been `collapsed` already. Services are copied often, and a list may be long.
    """
    six = family == "ip6"
    here = [tuple(network for network in networks if (":" in network) == six) for networks in (allow, deny)]
    only = bool(allow)
    networks = here[0] if only else here[1]
    if here[0] and here[1]:
        networks = tuple(_decided(here[0], here[1], _TOP[family]))
    elif allow and deny:
        # One of them has networks of the other family alone.
        networks = collapsed(networks)
    everything = any(network.endswith("/0") for network in networks)
    if (only and everything) or (not only and not networks):
        return None
    return Admission(networks, only)


def decisive(allow: Iterable[str], deny: Iterable[str], client: str) -> str | None:
    """The network that decides about a client; None where no network has it."""
    address = ipaddress.ip_address(client)
    having = [net for net in map(ipaddress.ip_network, (*allow, *deny)) if address in net]
    return str(max(having, key=lambda net: net.prefixlen)) if having else None


def _decided(allow: Sequence[str], deny: Sequence[str], top: int) -> Iterator[str]:
    """The networks that are allowed where both lists have some: as few as it takes, in order."""
    verdicts = [(number_range(net), True) for net in allow] + [(number_range(net), False) for net in deny]
    for low, high in _allowed(sorted(verdicts, key=lambda item: (item[0][0], -item[0][1])), top):
        kind = ipaddress.IPv4Address if top == _TOP["ip"] else ipaddress.IPv6Address
        yield from map(str, ipaddress.summarize_address_range(kind(low), kind(high)))


def _allowed(verdicts: Sequence[tuple[Range, bool]], top: int) -> list[Range]:
    """The ranges that are allowed, in order and never next to each other. A network comes after those around it."""
    found: list[Range] = []
    around = [(top, False)]
    begin = 0

    def until(end: int) -> None:
        nonlocal begin
        if around[-1][1] and begin <= end:
            low = found.pop()[0] if found and found[-1][1] == begin - 1 else begin
            found.append((low, end))
        begin = max(begin, end + 1)

    for (low, high), verdict in verdicts:
        while around[-1][0] < low:
            until(around[-1][0])
            around.pop()
        until(low - 1)
        around.append((high, verdict))
    while around:
        until(around[-1][0])
        around.pop()
    return found
