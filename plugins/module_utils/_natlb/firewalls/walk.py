# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Foreign rules, followed with our packets: every end that such a packet may have in a base chain.

Some matches cannot be decided (a mark, a set, a rate). They may match or not, so the result has all possible ends. A
warning requires that all of them are bad, since false alarms teach people to ignore warnings.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Callable, Literal, NamedTuple

from ..host.routes import Network
from ..packets import Family, Protocol


class Owner(NamedTuple):
    """Whose packets they are: of a service, by its name, or of the egress of a network."""

    kind: Literal["service", "egress of"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True)
class Packet:
    """A packet, as far as it is known. `interfaces` are the possible ones; empty if unknown.

    `owners` are the services, or the egress, that have such packets. `state` is that of its connection; empty before
    connection tracking.
    """

    owners: tuple[Owner, ...]
    family: Family
    protocol: Protocol | None
    state: str
    dnat: bool
    inside: frozenset[str]
    outside: frozenset[str]
    source: str | None = None
    target: str | None = None
    port: int | None = None
    #: Where neither an unknown source nor an unknown target is: networks behind other interfaces than theirs.
    not_source: tuple[Network, ...] = ()
    not_target: tuple[Network, ...] = ()
    #: Whether its destination is an address of this host.
    local: bool | None = None
    #: Whether the way back to its source is known to be another than the one it came by.
    astray: bool = False


class Match(NamedTuple):
    """`kind` is a key of `_TELL`, or another kind, which cannot be decided."""

    kind: str
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True)
class Rule:
    """`verdict` is accept, deny, translate, untrack, return, jump or goto; `target` the chain of the last two."""

    matches: tuple[Match, ...]
    verdict: str
    target: str = ""
    text: str = ""


@dataclass
class Chains:
    """The chains of one table in one family, and where its packets come in."""

    place: str
    family: Family
    base: str
    policy: str
    rules: dict[str, list[Rule]] = field(default_factory=dict)


class End(NamedTuple):
    """The end of a walk: `verdict` is accept, deny, translate or untrack, fall (past the last rule) or stop (in the
    requested chain). `why` is the rule or the policy."""

    verdict: str
    why: str = ""


_FALL = End("fall")


def ends(chains: Chains, packet: Packet, stop: str = "") -> set[End]:
    """Every end that the packet may have; with `stop` only until a rule leads into that chain."""
    found = _walk(chains, chains.base, packet, stop, ())
    if _FALL in found:
        found = found - {_FALL}
        found.add(End("accept" if chains.policy == "accept" else "deny", f"policy {chains.policy}"))
    return found


def _walk(chains: Chains, name: str, packet: Packet, stop: str, above: tuple[str, ...]) -> set[End]:
    found: set[End] = set()
    for rule in chains.rules.get(name, ()):
        met = _met(rule, packet)
        if met is False:
            continue
        if stop and rule.target == stop:
            return found | {End("stop", rule.text)}
        if rule.verdict in ("jump", "goto"):
            if rule.target in above:
                continue
            here = _walk(chains, rule.target, packet, stop, (*above, name))
            found |= here - {_FALL}
            if met and (_FALL not in here or rule.verdict == "goto"):
                return found | here
        else:
            found.add(_FALL if rule.verdict == "return" else End(rule.verdict, rule.text))
            if met:
                return found
    return found | {_FALL}


def _met(rule: Rule, packet: Packet) -> bool | None:
    """Whether all matches of a rule match; None if this cannot be decided."""
    answers = [_tell(match, packet) for match in rule.matches]
    return False if False in answers else None if None in answers else True


def _tell(match: Match, packet: Packet) -> bool | None:
    tell = _TELL.get(match.kind)
    answer = None if tell is None else tell(match.values, packet)
    return answer if answer is None else answer != match.negated


def _tell_interface(values: Sequence[str], known: frozenset[str]) -> bool | None:
    if any(value.startswith(("@", "$")) for value in values):
        return None
    found = {any(_is_interface(name, value) for value in values) for name in known}
    return found.pop() if len(found) == 1 else None


def _is_interface(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern[-1:] in ("*", "+") else name == pattern


def _tell_address(values: Sequence[str], address: str | None, elsewhere: Sequence[Network]) -> bool | None:
    """An address that is a network may lie partly in another network; then this cannot be decided.

    An unknown address is only known to lie in no other network.
    """
    if any(value.startswith(("@", "$")) for value in values):
        return None
    if address is None:
        return False if all(_is_within(value, elsewhere) for value in values) else None
    inner = ipaddress.ip_network(address)
    low, high = int(inner.network_address), int(inner.broadcast_address)
    apart = True
    for value in values:
        first, _dash, last = value.partition("-")
        try:
            outer, until = ipaddress.ip_network(first, strict=False), ipaddress.ip_network(last or first, strict=False)
        except ValueError:
            return None
        if outer.version != inner.version:
            continue
        if int(outer.network_address) <= low and high <= int(until.broadcast_address):
            return True
        apart = apart and (high < int(outer.network_address) or low > int(until.broadcast_address))
    return False if apart else None


def _is_within(value: str, networks: Sequence[Network]) -> bool:
    first, _dash, last = value.partition("-")
    try:
        ends_of = [ipaddress.ip_network(part, strict=False) for part in (first, last or first)]
    except ValueError:
        return False
    return any(all(end[0] in network and end[-1] in network for end in ends_of) for network in networks)


def _tell_port(values: Sequence[str], port: int | None) -> bool | None:
    if port is None:
        return None
    for value in values:
        ends_of = re.fullmatch(r"(\d+)(?:[-:](\d+))?", value)
        if ends_of is None:
            return None
        if int(ends_of[1]) <= port <= int(ends_of[2] or ends_of[1]):
            return True
    return False


_TELL: dict[str, Callable[[Sequence[str], Packet], bool | None]] = {
    "iif": lambda values, packet: _tell_interface(values, packet.inside),
    "oif": lambda values, packet: _tell_interface(values, packet.outside),
    "family": lambda values, packet: packet.family in values,
    "protocol": lambda values, packet: (
        True if "all" in values else None if packet.protocol is None else packet.protocol in values
    ),
    "state": lambda values, packet: packet.state in values if packet.state else None,
    "status": lambda values, packet: "dnat" in values and packet.dnat if packet.state else None,
    # iptables has both in one list.
    "ctstate": lambda values, packet: (
        packet.state in values or ("dnat" in values and packet.dnat) if packet.state else None
    ),
    "source": lambda values, packet: _tell_address(values, packet.source, packet.not_source),
    "target": lambda values, packet: _tell_address(values, packet.target, packet.not_target),
    "port": lambda values, packet: _tell_port(values, packet.port),
    "local": lambda values, packet: packet.local if tuple(values) == ("local",) else None,
    # What nft finds missing, iptables inverts, without a word more.
    "astray": lambda values, packet: True if packet.astray and tuple(values) in ((), ("",), ("missing",)) else None,
}
