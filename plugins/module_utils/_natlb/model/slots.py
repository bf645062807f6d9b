# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of slots: `slots[i]` is the backend that connection number i, or hash value i, goes to.

A method is only the way in which the kernel picks i. Everything here is pure and depends on nothing but its
arguments, so that two balancers with the same declaration fill the same table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import reduce
from math import gcd

from ..errors import ConfigError
from .entities import Backend, Service

#: More slots than this in one service are refused: 16 bits are what the maps are declared for.
MAX_SLOTS = 65536
#: Slots per declared backend of a hash table: shares within one percent, and a backend that leaves the declaration
#: moves at most about 2 % of the others' clients (100 slots each would move up to 4 %).
SLOTS_PER_BACKEND = 250
#: Table sizes are taken from this ladder of primes, each about four times the one before. Its steps are far apart,
#: because a new size moves nearly every client: at the 5th, the 17th and the 66th declared backend.
_PRIMES = (1021, 4093, 16381, 65521)


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


def maglev(keys: Sequence[str], weights: Sequence[int], size: int) -> list[int]:
    """Slots for a hash: each index gets its share of `size` slots, and keeps nearly all of them when others change.

    `size` must be prime and not below `len(keys)`, the weights positive. Source: Eisenbud et al., "Maglev: A Fast and
    Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
    """
    table = [-1] * size
    _fill(table, keys, weights, range(len(keys)))
    return table


def vacate(table: list[int], keys: Sequence[str], weights: Sequence[int], staying: Sequence[int]) -> None:
    """Give the slots of all indices but the `staying` ones to these, by weight, in place; no other slot moves."""
    kept = set(staying)
    for place, index in enumerate(table):
        if index not in kept:
            table[place] = -1
    _fill(table, keys, weights, staying)


def _fill(table: list[int], keys: Sequence[str], weights: Sequence[int], indices: Sequence[int]) -> None:
    """Maglev's turns over the free slots (-1).

    Each key has a permutation of the slots of its own, and takes its next free one in turn; a lighter one skips turns.
    """
    left = table.count(-1)
    if not left or not indices:
        return
    size = len(table)
    position, stride = {}, {}
    for index in indices:
        position[index], stride[index] = _permutation(keys[index], size)
    heaviest = max(weights[index] for index in indices)
    credit = dict.fromkeys(indices, 0)
    while True:
        for index in indices:
            credit[index] += weights[index]
            if credit[index] < heaviest:
                continue
            credit[index] -= heaviest
            place, jump = position[index], stride[index]
            while table[place] >= 0:
                place = (place + jump) % size
            table[place] = index
            position[index] = (place + jump) % size
            left -= 1
            if not left:
                return


def _permutation(key: str, size: int) -> tuple[int, int]:
    """Offset and skip of a key's permutation of `size` slots."""
    digest = hashlib.sha256(key.encode()).digest()
    offset = int.from_bytes(digest[:8], "big") % size
    skip = int.from_bytes(digest[8:16], "big") % (size - 1) + 1
    return offset, skip


def table_size(backends: int) -> int:
    """Size of the hash table of a service with so many declared backends, whether they serve or not."""
    wanted = backends * SLOTS_PER_BACKEND
    return next((prime for prime in _PRIMES if prime >= wanted), _PRIMES[-1])


def slot_count(service: Service, family: str) -> int:
    """How many slots a service has in one family, told without filling them."""
    serving = service.serving(family)
    if not serving:
        return 0
    if service.method in ("source_hash", "flow_hash"):
        return table_size(sum(backend.family == family and backend.weight > 0 for backend in service.backends))
    weights = [backend.weight for backend in serving]
    return sum(weights) // reduce(gcd, weights)


def slots(service: Service, family: str) -> list[Backend]:
    """The slots of a service in one family; empty where no backend serves."""
    serving = service.serving(family)
    if not serving:
        return []
    if service.method in ("source_hash", "flow_hash"):
        return _hash_slots(service, family, serving)
    count = slot_count(service, family)
    if count > MAX_SLOTS:
        raise ConfigError(
            f"service {service.name}",
            f"its weights need {count} slots",
            f"at most {MAX_SLOTS}; use smaller weights with a common divisor",
        )
    return [serving[index] for index in interleave([backend.weight for backend in serving])]


def _hash_slots(service: Service, family: str, serving: Sequence[Backend]) -> list[Backend]:
    """A table over all declared backends, in which those that do not serve have left their slots to the others.

    So the clients of the others stay where they are while a backend is drained or ill, and its own come back to it
    afterwards; only a change of the declaration itself moves a few others.
    """
    declared = sorted(
        (b for b in service.backends if b.family == family and b.weight > 0), key=lambda backend: backend.key
    )
    keys = [backend.key for backend in declared]
    weights = [backend.weight for backend in declared]
    size = table_size(len(declared))
    primary = [index for index, backend in enumerate(declared) if not backend.backup]
    table = [-1] * size
    _fill(table, keys, weights, primary)
    able = {backend.key for backend in serving}
    vacate(table, keys, weights, [index for index, backend in enumerate(declared) if backend.key in able])
    return [declared[index] for index in table]
