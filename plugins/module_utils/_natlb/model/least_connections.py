# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`method: least_connections`: the slots of a service are dealt so that new connections level the active ones.

The kernel takes turns, as for `round_robin`. The agent counts active connections now and then, and says what multiple
of its fair share of new connections each backend is to get until it counts again; its fair share is the one by weight.
All multiples are between `LEAST` and `MOST`: a backend that is empty fills up at twice the usual rate, and no faster.
Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .effective import Place
from .entities import Backend, Config, Service
from .slots import SHARE_STEPS, fits

#: No backend gets more than so many times its fair share, so that one that has just started is not run over; and none
#: gets less, so that one that answers nothing else is not forgotten.
MOST, LEAST = 2.0, 1 / SHARE_STEPS
#: Multiples that differ by less are alike.
_NEAR = 0.125
#: A level is found to this part of a connection.
_EXACT = 0.01

#: The multiple of its fair share of new connections that a backend is to get.
Multiples = Mapping[Place, float]


def multiples(active: Sequence[float], weights: Sequence[float], arrivals: float) -> list[float]:
    """For each backend the multiple of its fair share of the next `arrivals` that levels connections per weight.

    As water finds its level: those with the fewest connections for their weight are filled first, each within its
    bounds. `weights` are above 0; the fair shares of all multiples add up to 1.
    """
    total = sum(weights)
    if len(weights) < 2 or arrivals <= 0:
        return [1.0] * len(weights)
    fair = [arrivals * weight / total for weight in weights]

    def given(level: float) -> list[float]:
        return [
            min(MOST, max(LEAST, (level * weight - count) / share))
            for count, weight, share in zip(active, weights, fair)
        ]

    low, high = 0.0, max((count + MOST * share) / weight for count, weight, share in zip(active, weights, fair))
    while high - low > _EXACT / max(weights):
        middle = (low + high) / 2
        enough = sum(item * share for item, share in zip(given(middle), fair)) >= arrivals
        low, high = (low, middle) if enough else (middle, high)
    return given(high)


def with_hysteresis(before: Sequence[float], now: Sequence[float]) -> list[float]:
    """The multiples to deal, in steps of a slot. Small differences are no reason to deal anew, and around their fair
    shares backends simply take turns."""
    ones = [1.0] * len(now)
    stepped = [round(multiple * SHARE_STEPS) / SHARE_STEPS for multiple in now]
    if _near(stepped, ones):
        return ones
    return list(before) if _near(stepped, before) else stepped


def _near(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(first - second) < _NEAR for first, second in zip(one, other))


def levelled(config: Config, found: Multiples) -> Config:
    """The configuration with backends of `least_connections` dealt their multiples."""
    if not found:
        return config
    services = tuple(levelled_service(item, found) for item in config.services)
    return config if all(map(operator.is_, services, config.services)) else replace(config, services=services)


def levelled_service(service: Service, found: Multiples) -> Service:
    if service.method != "least_connections":
        return service
    backends = tuple(_dealt(backend, found.get(place_of(service, backend), 1.0)) for backend in service.backends)
    if all(map(operator.is_, backends, service.backends)):
        return service
    attempt = replace(service, backends=backends)
    return attempt if fits(attempt) else service


def _dealt(backend: Backend, multiple: float) -> Backend:
    return backend if multiple == 1 else replace(backend, share=backend.share * multiple)


def place_of(service: Service, backend: Backend) -> Place:
    return Place(service.name, backend.address, backend.port)


def of_known(found: Multiples, services: Iterable[Service]) -> Multiples:
    """Without those of backends that no such service has any more."""
    known = {
        place_of(service, backend)
        for service in services
        if service.method == "least_connections"
        for backend in service.backends
    }
    return {place: multiple for place, multiple in found.items() if place in known}
