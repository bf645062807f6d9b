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

from ..packets import Family
from .ranges import TOP, Range, collapsed, most_specific, networks_of, number_range


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
        at = bisect.bisect_right(self._ranges, (number, TOP["ip6"])) - 1
        return self.only == (at >= 0 and number <= self._ranges[at][1])


def apart_or_both(allow: Sequence[str], deny: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both lists as a service has them: one that stands alone is `collapsed`, since no longer prefix counts there."""
    if allow and deny:
        return tuple(allow), tuple(deny)
    return collapsed(tuple(allow)), collapsed(tuple(deny))


@lru_cache(maxsize=64)
def admission(allow: tuple[str, ...], deny: tuple[str, ...], family: Family) -> Admission | None:
    """The clients of a family that these lists admit; None where that is everybody.

    A list that stands alone has been `collapsed` already. Services are copied often, and a list may be long.
    """
    six = family == "ip6"
    here = [tuple(network for network in networks if (":" in network) == six) for networks in (allow, deny)]
    only = bool(allow)
    networks = here[0] if only else here[1]
    if here[0] and here[1]:
        networks = tuple(_decided(here[0], here[1], family))
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


def _decided(allow: Sequence[str], deny: Sequence[str], family: Family) -> Iterator[str]:
    """The networks that are allowed where both lists have some: as few as it takes, in order."""
    verdicts: list[tuple[Range, bool | None]] = [(number_range(net), True) for net in allow]
    verdicts += [(number_range(net), None) for net in deny]
    for block, _allowed in most_specific(verdicts, family):
        yield from networks_of(block, family)
