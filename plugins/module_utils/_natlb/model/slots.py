# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of slots: `slots[i]` is the backend that connection number i, or hash value i, goes to.

A method is only the way in which the kernel picks i. Everything here is pure and depends on nothing but its
arguments, so that two balancers with the same declaration fill the same table.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, reduce
from math import gcd

from ..errors import ConfigError
from ..packets import Family
from . import hash_table
from .entities import Backend, Service

#: More slots than this in one service are refused: 16 bits are what the maps are declared for.
MAX_SLOTS = hash_table.MAX_SIZE
#: A share of a weight is a multiple of this part of it.
SHARE_STEPS = 20
#: Methods of which a hash picks the slot.
HASHES = ("source_hash", "flow_hash", "destination_hash")
#: Fewer places are sooner taken out of a list one by one than by a walk over all of it, which for 4,096 backends with
#: different weights is a quarter of a billion steps.
_FEW_PLACES = 256


def interleave(weights: Sequence[int]) -> list[int]:
    """Slots for a counter: index i stands `weights[i] / gcd` times, spread as evenly as the others allow.

    The heaviest takes evenly spaced places of the whole ring, the next ones evenly spaced places of what is left:
    3:2:1 becomes A B A C A B. Weights must be positive.
    """
    if not weights:
        return []
    divisor = reduce(gcd, weights)
    shares = [weight // divisor for weight in weights]
    if len(set(shares)) == 1:
        return list(range(len(shares))) * shares[0]
    ring = [-1] * sum(shares)
    free = list(range(len(ring)))
    for index in sorted(range(len(shares)), key=lambda i: (-shares[i], i)):
        share, room = shares[index], len(free)
        # Rounded multiples of room/share differ by at least one, since share <= room.
        taken = [(2 * k * room + share) // (2 * share) for k in range(share)]
        for rank in taken:
            ring[free[rank]] = index
        if share < _FEW_PLACES:
            for rank in reversed(taken):
                del free[rank]
        else:
            free = [place for place in free if ring[place] < 0]
    return ring


def slots(service: Service, family: Family) -> list[Backend]:
    """The slots of a service in one family; empty where no backend serves."""
    serving = service.serving(family)
    if not serving:
        return []
    if service.method in HASHES:
        declared, table = hash_slots(service, family)
        return [declared[index] for index in table]
    count = slot_count(service, family)
    if count > MAX_SLOTS:
        raise ConfigError(
            f"service {service.name}",
            f"its weights need {count} slots",
            f"at most {MAX_SLOTS}; use smaller weights with a common divisor",
        )
    return [serving[index] for index in interleave(dealt_weights(serving))]


def dealt_slots(service: Service, family: Family) -> dict[str, int]:
    """How many slots each backend has, by its key; those that have none are left out."""
    if service.method in HASHES and service.serving(family):
        declared, table = hash_slots(service, family)
        return {declared[index].key: count for index, count in Counter(table).items()}
    serving = service.serving(family)
    weights = dealt_weights(serving)
    divisor = reduce(gcd, weights, 0)
    # Those of `interleave`, which need not be put in order for it. Two backends with one key are one.
    found: dict[str, int] = {}
    for backend, weight in zip(serving, weights):
        found[backend.key] = found.get(backend.key, 0) + weight // divisor
    return found


def dealt_weights(backends: Sequence[Backend]) -> list[int]:
    """Weights that stand to each other as those that backends get for now. One with a share of its weight keeps a slot
    at least."""
    if all(backend.share == 1.0 for backend in backends):
        return [backend.weight for backend in backends]
    return [max(1, round(SHARE_STEPS * backend.weight * backend.share)) for backend in backends]


def slot_count(service: Service, family: Family) -> int:
    """How many slots a service of another method than a hash has in one family, told without filling them."""
    weights = dealt_weights(service.serving(family))
    return sum(weights) // reduce(gcd, weights) if weights else 0


def fits(service: Service) -> bool:
    """Whether the service needs no more slots than there are."""
    return all(slot_count(service, family) <= MAX_SLOTS for family in service.families())


def hash_slots(service: Service, family: Family) -> tuple[list[Backend], Sequence[int]]:
    """All declared backends in an order that is the same everywhere, and the slots as indices of it.

    Those that do not serve have left their slots to the others. So the clients of the others stay where they are while
    a backend is drained or ill, and its own come back to it afterwards; only a change of the declaration itself moves a
    few others. At least one has to serve.
    """
    declared = declared_backends(service, family)
    able = {backend.key for backend in service.serving(family)}
    return declared, _dealt(
        tuple(backend.key for backend in declared),
        tuple(dealt_weights(declared)),
        tuple(index for index, backend in enumerate(declared) if not backend.backup),
        tuple(index for index, backend in enumerate(declared) if backend.key in able),
    )


def second_slots(service: Service, family: Family) -> Sequence[int]:
    """Whom to ask about an established connection that the backend of its slot does not know, as `hash_slots` has them.

    If that backend only stands in for one that does not serve now, it is this one: the connection may have begun
    before. Else it is whoever had the slot before this backend came, or has it while this one does not serve. At least
    one has to serve.
    """
    declared, now = hash_slots(service, family)
    keys, weights = tuple(backend.key for backend in declared), tuple(dealt_weights(declared))
    usual = tuple(index for index, backend in enumerate(declared) if not backend.backup) or tuple(range(len(declared)))
    whole, second = _dealt(keys, weights, usual, usual), _second(keys, weights, usual)
    return [two if one == of else of for one, of, two in zip(now, whole, second)]


@lru_cache(maxsize=256)
def _second(keys: tuple[str, ...], weights: tuple[int, ...], dealt: tuple[int, ...]) -> Sequence[int]:
    return array("H", hash_table.second_choices(_dealt(keys, weights, dealt, dealt), keys, weights, dealt))


def declared_backends(service: Service, family: Family) -> list[Backend]:
    """Whoever has a share of a hash table, also while it does not serve."""
    return sorted((b for b in service.backends if b.family == family and b.weight > 0), key=lambda backend: backend.key)


@lru_cache(maxsize=2048)
def _dealt(
    keys: tuple[str, ...], weights: tuple[int, ...], dealt: tuple[int, ...], serving: tuple[int, ...]
) -> Sequence[int]:
    """As `hash_table.deal`. Many services have the same backends, and a run asks more than once."""
    return array("H", hash_table.deal(keys, weights, dealt, serving))
