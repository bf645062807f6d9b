# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conflicts between services: two with one name, or two that claim the same packets, neither more specifically.

Frontends that differ in their address or interface never conflict (`precedence.py`). Nor does a range with one of
another service within it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from ..errors import ConfigError
from .entities import Frontend, Service
from .overlaps import Claim
from .sources_of_networks import untold
from .spelling import ports_text

#: More pairs that conflict are not told: of ten thousand services on one port there are fifty million.
MOST_CONFLICTS = 100


def between(services: Mapping[int, Service], whole: Mapping[int, Service]) -> list[ConfigError]:
    """The conflicts between services, each with its place in the declaration. Those that are not `whole` have a name,
    and claim packets; the rest of them is not known."""
    errors: list[ConfigError] = []
    names: dict[str, int] = {}
    for index, service in services.items():
        if service.name in names:
            errors.append(
                ConfigError(
                    f"services[{index}].name",
                    f"{service.name} is the name of services[{names[service.name]}] already",
                    "give each service a name of its own",
                )
            )
        names.setdefault(service.name, index)
    claims = [(frontend, index) for index, service in services.items() for frontend in service.frontends()]
    of_whole = [claim for claim in claims if claim[1] in whole]
    return [*errors, *islice(_errors(services, claims), MOST_CONFLICTS), *untold(whole, of_whole)]


def _errors(services: Mapping[int, Service], claims: Iterable[Claim]) -> Iterator[ConfigError]:
    seen: set[tuple[int, int]] = set()
    for (first, one), (second, two) in conflicts(claims):
        low, high = sorted((one, two))
        if (low, high) not in seen:
            seen.add((low, high))
            yield _error(services, (low, high), first, second)


def conflicts(claims: Iterable[Claim]) -> Iterator[tuple[Claim, Claim]]:
    """Pairs of claims with packets in common of which neither is more specific: the same address and interface, and the
    same ports, or ranges that cross. Of one service also a range and one within it: there nothing differs."""
    lanes: dict[tuple[str, str, str | None, str | None], list[Claim]] = {}
    for claim in claims:
        frontend = claim[0]
        lanes.setdefault((frontend.family, frontend.protocol, frontend.address, frontend.interface), []).append(claim)
    for lane in lanes.values():
        around: list[Claim] = []
        for claim in sorted(lane, key=_wider_first) if len(lane) > 1 else ():
            while around and around[-1][0].high < claim[0].low:
                around.pop()
            for other in reversed(around):
                within = _is_within(claim[0], other[0])
                if claim[0].low <= other[0].high and (not within or claim[1] == other[1]):
                    yield other, claim
                if within:
                    break
            around.append(claim)


def _wider_first(claim: Claim) -> tuple[int, int, int]:
    return claim[0].low, -claim[0].high, claim[1]


def _is_within(inner: Frontend, outer: Frontend) -> bool:
    return inner.high <= outer.high and (inner.low, inner.high) != (outer.low, outer.high)


def _error(services: Mapping[int, Service], pair: tuple[int, int], first: Frontend, second: Frontend) -> ConfigError:
    low, high = pair
    equal = (first.low, first.high) == (second.low, second.high)
    if low == high:
        return ConfigError(
            f"services[{low}].listen", f"claims {first} and {second}, which overlap", "name each address and port once"
        )
    if equal:
        return ConfigError(
            f"services[{high}].listen",
            f"{services[high].name} and {services[low].name} (services[{low}]) both claim {first}",
            "an address, port and protocol belong to one service; change one of the two",
        )
    return ConfigError(
        f"services[{high}].listen",
        f"{services[high].name} and {services[low].name} (services[{low}]) both claim some ports of {first} and "
        f"{second}, and neither range is within the other",
        f"let one of them leave out {ports_text(second.low, first.high)}; a range may lie within another one",
    )
