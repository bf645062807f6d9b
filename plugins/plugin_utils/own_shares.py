# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backend a balancer's own connections have to come to, so surely that a change may be undone for it. Pure.

A roll-out over 1,000 balancers with 30 services each judges 30,000 times. A test at a significance of 0.001 would undo
30 good changes. So nothing is undone for what chance, clients or health checks can bring about:

- *Quiet*: the counters grew by exactly the connections of the balancer's own. So there were no clients.
- *Steady*: health checks, limits, affinity and the like cannot choose, and all shares are the same before and after.

Then `round_robin` is exact. With c slots of which a backend has w, any n connections in a row bring it n * w / c, and
at most w more or less: whole rounds bring w each, and the rest of a round 0 to w. Each probe may have a counter of its
own in the kernel, so p probes allow p * w; twice as much is allowed here, for trees of counters. The kernel counts with
atomic operations, so the order in which processors come does not matter. As a bound that is not a test, it has no false
alarms: 0 in 30,000, whatever the number of connections. A backend whose share is 0 gets none with any method but
`least_connections`, which is just as sure.

All else that looks odd is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from math import gcd
from typing import Any

Item = Mapping[str, Any]

#: Of what is only told, 30,000 judgements bring one false line in 33 roll-outs.
TOLD_SIGNIFICANCE = 1e-6


def moving(former: Item, service: Item) -> str:
    """What else than its slots may choose a backend of a service, as `balancer_info` returns it; empty for nothing."""
    backends = service["backends"]
    if service.get("affinity") or service.get("pins"):
        return "clients keep their backends"
    if service.get("redispatch"):
        return "attempts may take another backend"
    if any(backend.get("max_connections") for backend in backends):
        return "its backends have limits"
    if any(item.get("health", "unchecked") != "unchecked" for one in (former, service) for item in one["backends"]):
        return "health checks may change the shares meanwhile"
    if service["method"] == "least_connections":
        return "the shares change with the connections"
    if _shares(former) != _shares(service):
        return "the shares changed meanwhile"
    return ""


def changed_meanwhile(former: Item, service: Item) -> bool:
    """Whether something is known that has changed the rules of a service between two readings of it."""
    return service["method"] == "least_connections" or _standing(former) != _standing(service)


def _standing(service: Item) -> list[tuple[Any, ...]]:
    keys = ("address", "port", "expected_share", "health", "health_since", "override")
    return [tuple(item.get(key) for key in keys) for item in service["backends"]]


def _shares(service: Item) -> list[tuple[Any, ...]]:
    return [(item["address"], item.get("port"), item["expected_share"]) for item in service["backends"]]


def wrong(service: Item, growth: Mapping[bool, Mapping[str, int]], probes: Mapping[bool, int]) -> Iterator[str]:
    """What cannot be, of a service that is quiet and steady. `growth`, by name of backend, and the number of
    `probes` are of each address family."""
    for six, counts in growth.items():
        slots = _slots(service, six)
        strangers = [name for name, count in counts.items() if count and name not in slots]
        if strangers:
            yield f"{', '.join(strangers)}: got connections, but should get none"
        elif service["method"] == "round_robin":
            yield from _off(slots, counts, probes.get(six, 0))


def _slots(service: Item, six: bool) -> dict[str, int]:
    """By name of backend, of those that have a share."""
    found: dict[str, int] = {}
    for item in service["backends"]:
        if (":" in item["address"]) == six and item["expected_share"]:
            found[item["name"]] = found.get(item["name"], 0) + int(item["weight"])
    divisor = reduce(gcd, found.values(), 0) or 1
    return {name: weight // divisor for name, weight in found.items()}


def _off(slots: Mapping[str, int], counts: Mapping[str, int], probes: int) -> Iterator[str]:
    total, circle = sum(counts.values()), sum(slots.values())
    rows = [(name, counts.get(name, 0), total * own / circle, 2 * probes * own) for name, own in slots.items()]
    if any(abs(seen - wanted) > room for _name, seen, wanted, room in rows):
        told = "; ".join(f"{name}: expected {wanted:.6g}, seen {seen}" for name, seen, wanted, _room in rows)
        yield f"the balancer's own {total} connections were not passed on in turns: {told}"
