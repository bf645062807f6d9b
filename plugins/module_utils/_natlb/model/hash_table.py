# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The slots of a hash: shares by weight, and few clients that move when a backend comes, goes or changes its weight.

The hash values are cut into `BLOCKS` blocks, always as many. Each backend likes them in an order of its own, which
depends on its key alone. It asks for its first block, then for the next, and so on, until it has its share; a block
goes to who asks first. Where one backend leaves, nearly all others still get what they have asked for, so only its own
blocks change hands. (This is the stable matching of backends and blocks: Gale and Shapley, American Mathematical
Monthly 69, 1962.)

A backend asks the sooner the heavier it is: its k-th wish comes at the time of the k-th of `BLOCKS` exponential clocks,
divided by the weight. Of exponential clocks the first to ring is one of a backend's with a chance that is as large as
its weight (weighted rendezvous hashing). So another weight moves clients to or from this backend only, up to chance.

A table has one slot for each block, or 2, 4, 8 … where there are many backends: a block is then shared by several.
nft's `jhash … mod N` is hash * N >> 32, which are ranges of the hash (reciprocal_scale in include/linux/kernel.h).
So the slots of a larger table are those of the smaller one, each cut into two. Its size makes shares finer, and hardly
moves anybody.

Maglev (Eisenbud et al., NSDI 2016) has other orders for each size of its table, so that a larger table moves nearly
everybody, and moves about twice as many at an equal size.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

#: Blocks of the hash values. More of them move fewer clients, but are more elements for the kernel: with 2,048 a change
#: moves 0.3 to 1.8 % of all clients without need on average, with 1,024 up to 2.6 %.
BLOCKS = 2048
#: Slots of the largest table: 16 bits are what the maps are declared for.
MAX_SIZE = 65536
_SLOTS_OF_LIGHTEST = 64
#: A shorter stretch of asks is not worth it.
_FEW_ASKS = 16
#: See `second_choices`: each costs a millisecond or two.
_LEAVING = 8
#: A slot that belongs to nobody yet.
FREE = -1


def table_size(weights: Sequence[int]) -> int:
    """Slots of a table of backends with these weights: enough for 64 of the lightest, so that its share is within 2 %
    of the fair one, as far as the largest table goes."""
    size = BLOCKS
    while size * min(weights) < _SLOTS_OF_LIGHTEST * sum(weights) and size < MAX_SIZE:
        size *= 2
    return size


def deal(
    keys: Sequence[str],
    weights: Sequence[int],
    dealt: Sequence[int],
    serving: Sequence[int],
    size: int = 0,
    blocks: int = BLOCKS,
) -> list[int]:
    """The slots: which of the `keys`, all different, each belongs to. Weights are positive; both lists are indices.

    All slots are dealt to the `dealt` ones first, then those of all that are not `serving` to the ones that are. No
    other slot moves then, so the clients of the others stay while a backend is away, and its own come back to it. Of
    `blocks`, a power of two, `size` is a multiple; without one it is `table_size`.
    """
    table = [FREE] * (size or table_size(weights))
    able = set(serving)
    if dealt:
        _fill(table, keys, weights, dealt, blocks)
    if able != set(dealt):
        table = [index if index in able else FREE for index in table]
        _fill(table, keys, weights, serving, blocks)
    return table


def second_choices(
    table: Sequence[int], keys: Sequence[str], weights: Sequence[int], dealt: Sequence[int], blocks: int = BLOCKS
) -> list[int]:
    """To whom each slot of a table would go if the one that has it went. All slots are of the `dealt` ones.

    Each of `_LEAVING` backends leaves by itself; of more, some leave together, which takes no longer.
    """
    found = list(table)
    groups = min(_LEAVING, len(dealt))
    for group in range(groups if groups > 1 else 0):
        gone = set(dealt[group::groups])
        left = [FREE if index in gone else index for index in table]
        _fill(left, keys, weights, [index for index in dealt if index not in gone], blocks)
        found = [new if old in gone else kept for old, new, kept in zip(table, left, found)]
    return found


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` cut by weight into whole numbers, the largest remainders rounded up."""
    whole = sum(weights)
    found = [total * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(total * weights[i] % whole), i))
    for index in by_remainder[: total - sum(found)]:
        found[index] += 1
    return found


class _Order(NamedTuple):
    """The order in which a key likes the blocks: the shuffled one from some place on, shuffled once more in a way of
    the key's own."""

    #: How many blocks there are.
    of: int
    start: int
    shift: int
    flip: int
    #: From which end it takes slots of a block that it shares: who has the other end stays when its part changes.
    backwards: bool

    def blocks(self, first: int, last: int) -> list[int]:
        """Its wishes from the `first` (from 0) to before the `last`."""
        shuffled, shift, flip = _shuffled(self.of), self.shift, self.flip
        return [shuffled[block + shift] ^ flip for block in shuffled[self.start + first : self.start + last]]

    def places(self, blocks: Sequence[int]) -> list[int]:
        """The which of its wishes each of these blocks is, from 0."""
        at, shift, flip, start = _places(self.of), self.shift, self.flip, self.start
        return [(at[at[block ^ flip] - shift] - start) % self.of for block in blocks]

    def one_by_one(self) -> Iterator[int]:
        shuffled, shift, flip = _shuffled(self.of), self.shift, self.flip
        return (shuffled[shuffled[place] + shift] ^ flip for place in range(self.start, self.start + self.of))


def _fill(table: list[int], keys: Sequence[str], weights: Sequence[int], indices: Sequence[int], blocks: int) -> None:
    """Deal the free slots to these indices, so that all they have then is by weight."""
    wanted = _wanted(table, weights, indices)
    size = len(table) // blocks
    if size == 1:
        room = [int(index == FREE) for index in table]
    else:
        room = [table[start : start + size].count(FREE) for start in range(0, len(table), size)]
    orders = {
        index: _order(keys[index], blocks) for index in sorted(wanted, key=lambda index: (-weights[index], index))
    }
    alike = len({weights[index] for index in orders}) == 1
    if alike and size == 1:
        _deal_first_asks(table, orders, wanted, room)
        asks = _asks_for_rest(orders, wanted, room)
    elif alike:
        asks = _asks_in_turn(orders, wanted, room)
    else:
        asks = _asks_by_weight(orders, weights, wanted, blocks)
    for index, block in asks:
        taken = room[block] and min(room[block], wanted[index])
        if taken:
            room[block] -= taken
            wanted[index] -= taken
            if size == 1:
                table[block] = index
            else:
                _take(table, range(block * size, (block + 1) * size), taken, index, orders[index].backwards)
    if any(wanted.values()):
        last = next(index for index in wanted if wanted[index])
        table[:] = [last if index == FREE else index for index in table]


def _take(table: list[int], places: range, count: int, index: int, backwards: bool) -> None:
    for place in reversed(places) if backwards else places:
        if table[place] == FREE:
            table[place] = index
            count -= 1
            if not count:
                return


def _wanted(table: Sequence[int], weights: Sequence[int], indices: Sequence[int]) -> dict[int, int]:
    """How many of the free slots each index is to get, where it is to get some."""
    has = Counter(table)
    total = sum(weights[index] for index in indices)
    fair = dict(zip(indices, shares(len(table), [weights[index] for index in indices])))
    wanted = {index: max(0, fair[index] - has[index]) for index in indices}
    # Who was rounded up before and is not now keeps its slot, so somebody else who was rounded up lacks one.
    excess = sum(wanted.values()) - has[FREE]
    rounded = sorted(indices, key=lambda index: len(table) * weights[index] - fair[index] * total)
    while excess:
        for index in [index for index in rounded if wanted[index]][:excess]:
            wanted[index] -= 1
            excess -= 1
    return {index: count for index, count in wanted.items() if count}


def _deal_first_asks(table: list[int], orders: Mapping[int, _Order], wanted: dict[int, int], room: list[int]) -> None:
    """Deal slots to backends of one weight, as the asks of `_asks_in_turn` would, for as long as nobody can get more
    than it wants. No ask needs to know what came of the one before it then, so a whole stretch is one dictionary."""
    asked, backends = 0, list(orders)
    while len(backends) > 1:
        asks = min(len(room) - asked, *(wanted[index] for index in backends))
        if asks < _FEW_ASKS:
            return
        wishes = [orders[index].blocks(asked, asked + asks) for index in backends]
        # From the last ask to the first, so that who asks first has the last word.
        backwards = itertools.chain.from_iterable(zip(*[wish[::-1] for wish in reversed(wishes)]))
        for block, index in dict(zip(backwards, itertools.cycle(reversed(backends)))).items():
            if room[block]:
                room[block] = 0
                table[block] = index
                wanted[index] -= 1
        asked += asks
        backends = [index for index in backends if wanted[index]]


def _asks_for_rest(
    orders: Mapping[int, _Order], wanted: Mapping[int, int], room: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Who asks for which of the blocks that are left, likewise. They are few, so it is quicker to find out when each is
    asked for than what each ask is for."""
    free = [block for block, slots in enumerate(room) if slots]
    asks = [
        (when, turn, index, block)
        for turn, (index, order) in enumerate(orders.items())
        if wanted[index]
        for when, block in zip(order.places(free), free)
    ]
    return ((index, block) for _when, _turn, index, block in sorted(asks))


def _asks_in_turn(
    orders: Mapping[int, _Order], wanted: Mapping[int, int], room: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Who asks for which block, where all have one weight, as long as there are two who want more."""
    asked, backends = 0, list(orders)
    while len(backends) > 1:
        until = asked + max(4, len(room) // len(backends))
        wishes = itertools.chain.from_iterable(zip(*[orders[index].blocks(asked, until) for index in backends]))
        # Most blocks are gone soon. To leave them out here spares half of the time.
        yield from [ask for ask in zip(itertools.cycle(backends), wishes) if room[ask[1]]]
        asked = until
        backends = [index for index in backends if wanted[index]]


def _asks_by_weight(
    orders: Mapping[int, _Order], weights: Sequence[int], wanted: Mapping[int, int], blocks: int
) -> Iterator[tuple[int, int]]:
    """Likewise where the weights differ. The heaviest come first in `orders`."""
    clock = _clock(blocks)
    groups: dict[int, list[tuple[int, Iterator[int]]]] = {}
    for index, order in orders.items():
        groups.setdefault(weights[index], []).append((index, order.one_by_one()))
    asked = dict.fromkeys(groups, 0)
    while sum(map(len, groups.values())) > 1:
        heaviest = max(groups)
        now = clock[asked[heaviest]]
        for weight, askers in groups.items():
            while asked[weight] < blocks and clock[asked[weight]] * heaviest <= now * weight:
                asked[weight] += 1
                for index, wishes in askers:
                    # Each has a wish for every block.
                    yield index, next(wishes, -1)
            if not all(wanted[index] for index, _unused in askers):
                groups[weight] = [asker for asker in askers if wanted[asker[0]]]
        if not all(groups.values()):
            groups = {weight: askers for weight, askers in groups.items() if askers}


@cache
def _clock(blocks: int) -> list[int]:
    """When the first, second … of so many exponential clocks of rate 1 rings on average. In whole numbers, since two
    balancers with different processors have to agree."""
    times, time = [], 0
    for left in range(blocks, 0, -1):
        time += (1 << 40) // left
        times.append(time)
    return times


@cache
def _shuffled(blocks: int) -> list[int]:
    """All blocks in an order without order, twice over."""
    drawn = hashlib.shake_128(b"natlb").digest(8 * blocks)
    order = sorted(range(blocks), key=lambda block: drawn[8 * block : 8 * block + 8])
    return order * 2


@cache
def _places(blocks: int) -> list[int]:
    """Where each block stands in that order."""
    places = [0] * blocks
    for place, block in enumerate(_shuffled(blocks)[:blocks]):
        places[block] = place
    return places


def _order(key: str, blocks: int) -> _Order:
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return _Order(blocks, number % blocks, number // blocks % blocks, number // blocks**2 % blocks, bool(number >> 63))
