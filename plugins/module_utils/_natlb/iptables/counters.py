# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The number of connections of each backend, from the packet counters of the translating rules.

The nat table sees only the first packet of a connection, so a rule's packets are connections.
"""

from __future__ import annotations

import re

from ..model.entities import Config
from .dispatch import chain_name
from .service import destination

_RULE = re.compile(r"\[(\d+):\d+\] -A (\S+) .*?-([jg]) (\S+)(?: --to-destination (\S+))?\s*\Z")

#: (packets, target, destination) of the rules of a chain.
_Rules = dict[str, list[tuple[int, str, str]]]


def count(config: Config, family: str, listing: str) -> dict[tuple[str, str], int]:
    """New connections by (service, backend key), from the output of `iptables-save --counters`."""
    rules = _rules(listing)
    found: dict[tuple[str, str], int] = {}
    for service in config.services:
        if family not in service.families():
            continue
        backends = {destination(backend): backend.key for backend in service.backends if backend.family == family}
        for protocol in service.protocols:
            for packets, to in _translations(rules, chain_name(service.name, protocol)):
                if to in backends:
                    key = (service.name, backends[to])
                    found[key] = found.get(key, 0) + packets
    return found


def _rules(listing: str) -> _Rules:
    rules: _Rules = {}
    table = ""
    for line in listing.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        match = _RULE.match(line) if table == "nat" else None
        if match:
            rules.setdefault(match.group(2), []).append((int(match.group(1)), match.group(4), match.group(5) or ""))
    return rules


def _translations(rules: _Rules, start: str) -> list[tuple[int, str]]:
    """(packets, destination) of each translating rule that is reached from a chain."""
    found: list[tuple[int, str]] = []
    waiting: list[str] = [start]
    seen: set[str] = {start}
    while waiting:
        for packets, target, to in rules.get(waiting.pop(), []):
            if target == "DNAT":
                found.append((packets, to))
            elif target in rules and target not in seen:
                seen.add(target)
                waiting.append(target)
    return found
