# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How evenly hashes spread clients, and how many clients move when the list of backends changes.

Nothing is sent here: our tables are those that the core makes, the others' are made by their published algorithms.
Clients are addresses, hashed as nftables does it (jhash, our seed). iptables and IPVS have other hash functions; what
differs between good ones is chance, and what is compared here is the tables, so all get the same hash values.

    tools/run python tests/bench/hash_quality.py [--sizes 3,10,50,100,500] [--rounds 5] [--write]

A round is another backend that is taken away, drained or given twice its weight.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import report

sys.path.insert(0, str(report.ROOT / "plugins" / "module_utils"))

from _natlb.iptables import service as iptables_service
from _natlb.model import entities, kernel_hashes, slots
from _natlb.model.entities import Service
from _natlb.model.services import parse_config
from _natlb.nftables.hashes import SEED

CLIENTS = 100_000
#: So many backends are added one by one.
MOST = 500
OPERATIONS = ("one added", "one removed", "one drained", "one doubled")
#: CONFIG_IP_VS_MH_TAB_INDEX=12, the default (net/netfilter/ipvs/ip_vs_mh.c).
MH_SIZE = 4093
#: CONFIG_IP_VS_MH_TAB_INDEX / 2: bits that a weight is cut to, likewise.
MH_WEIGHT_BITS = 6
#: A prime over 100 x 500 backends, as section 3.4 of the paper wants it.
PAPER_SIZE = 65537


# --- hashes -----------------------------------------------------------------------------------------------------------


def jhash(address: int, seed: int) -> int:
    """The kernel's jhash of an IPv4 address as a packet has it."""
    return kernel_hashes.jhash(address.to_bytes(4, "big"), seed)


def clients(count: int = CLIENTS) -> list[int]:
    """Hash values of `count` different client addresses."""
    return [jhash(address, SEED) for address in random.Random(1).sample(range(1 << 32), count)]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Backend:
    """What a table is made of; `key` is its name in it."""

    key: str
    weight: int = 1
    drained: bool = False


@dataclass(frozen=True)
class Table:
    """`slots[i]` is the key of the backend that slot i belongs to; `scaled` says how a hash value picks i."""

    slots: Sequence[str]
    #: By its leading bits (the kernel's reciprocal_scale, which is what `jhash ... mod N` of nftables is), or modulo.
    scaled: bool = True
    #: Backends whose clients are hashed anew until they meet another one (mh-fallback of IPVS).
    passed_over: frozenset[str] = frozenset()

    def where(self, hashes: Sequence[int]) -> list[str]:
        """The backend of each client."""
        size, table = len(self.slots), self.slots
        if self.scaled:
            return [table[value * size >> 32] for value in hashes]
        if not self.passed_over:
            return [table[value % size] for value in hashes]
        return [self._again(value) for value in hashes]

    def _again(self, value: int) -> str:
        """mh-fallback: the next try hashes the address and the slot of the last one."""
        key, start = self.slots[value % len(self.slots)], value % len(self.slots)
        for attempt in range(len(self.slots)):
            if key not in self.passed_over:
                return key
            offset = (start + attempt) % len(self.slots)
            key = self.slots[_number(f"{value} {offset}") % len(self.slots)]
        raise AssertionError("no backend is left")

    def spread(self, backends: Sequence[Backend]) -> tuple[float, float]:
        """The smallest and the largest share over the fair one. A share of slots: a good hash meets all alike."""
        counts, whole = Counter(self.slots), sum(backend.weight for backend in backends)
        shares = [counts[b.key] / len(self.slots) * whole / b.weight for b in backends]
        return min(shares), max(shares)


def plain(backends: Sequence[Backend], *, scaled: bool) -> Table:
    """One slot for each unit of weight, no more: what `hash mod N` does."""
    return Table([b.key for b in backends for _turn in range(b.weight) if not b.drained], scaled)


def ours(backends: Sequence[Backend], slots_of: Callable[[Service, str], Sequence[entities.Backend]]) -> Table:
    """A table of the core, as it goes to the kernel. (iptables walks a tree of it, two bits of a hash at a time.)"""
    declared = [{"address": b.key, "weight": b.weight, "state": "drained" if b.drained else "active"} for b in backends]
    listed = [{"name": "web", "listen": "192.0.2.10:80", "method": "source_hash", "backends": declared}]
    service = parse_config(listed).services[0]
    return Table([backend.address for backend in slots_of(service, "ip")])


def maglev(keys: Sequence[str], turns: Sequence[int], size: int) -> list[str]:
    """Turn by turn each backend takes the next free slot of its own permutation, `turns[i]` slots in a row.

    With one slot a turn it is the paper's algorithm (Eisenbud et al., NSDI 2016, section 3.4), with several that of
    IPVS (ip_vs_mh_populate). Ours differs from both: a lighter backend skips turns.
    """
    table: list[str | None] = [None] * size
    places = [_number(f"offset {key}") % size for key in keys]
    skips = [_number(f"skip {key}") % (size - 1) + 1 for key in keys]
    left = size
    while True:
        for i, key in enumerate(keys):
            for _turn in range(turns[i]):
                while table[places[i]] is not None:
                    places[i] = (places[i] + skips[i]) % size
                table[places[i]] = key
                left -= 1
                if not left:
                    return [key for key in table if key is not None]


def ipvs_mh(backends: Sequence[Backend]) -> Table:
    """The scheduler mh of IPVS with mh-fallback. A weight of 0 leaves its table as it is (`last_weight`)."""
    divisor = math.gcd(*(b.weight for b in backends))
    heaviest = max(b.weight for b in backends) // divisor
    shift = max(0, heaviest.bit_length() - MH_WEIGHT_BITS)
    turns = [(b.weight // divisor >> shift) or 1 for b in backends]
    table = maglev([b.key for b in backends], turns, MH_SIZE)
    return Table(table, scaled=False, passed_over=frozenset(b.key for b in backends if b.drained))


def paper(backends: Sequence[Backend]) -> Table:
    """Maglev as published: no weights (a backend of twice the weight takes two slots a turn), healthy ones only."""
    serving = [b for b in backends if not b.drained]
    return Table(maglev([b.key for b in serving], [b.weight for b in serving], PAPER_SIZE), scaled=False)


#: Our engines, and what makes their tables.
OURS: dict[str, Callable[[Sequence[Backend]], Table]] = {
    "natlb, nftables": lambda backends: ours(backends, slots.slots),
    "natlb, iptables": lambda backends: ours(backends, iptables_service.hashed_slots),
}
CONTESTANTS = {
    **OURS,
    f"IPVS mh, {MH_SIZE} slots": ipvs_mh,
    f"Maglev, {PAPER_SIZE} slots": paper,
    "hash modulo N": lambda backends: plain(backends, scaled=False),
    "nftables `jhash mod N`": lambda backends: plain(backends, scaled=True),
}


# --- what changes -----------------------------------------------------------------------------------------------------


def pool(count: int) -> list[Backend]:
    first = int(ipaddress.IPv4Address("10.0.0.3"))
    return [Backend(str(ipaddress.IPv4Address(first + i))) for i in range(count)]


def changed(backends: list[Backend], operation: str, index: int) -> list[Backend]:
    """The pool after an operation on the backend at `index`; one that is added comes last."""
    if operation == "one added":
        return pool(len(backends) + 1)
    if operation == "one removed":
        return backends[:index] + backends[index + 1 :]
    change = {"drained": True} if operation == "one drained" else {"weight": 2 * backends[index].weight}
    return [*backends[:index], replace(backends[index], **change), *backends[index + 1 :]]


@dataclass(frozen=True)
class Moved:
    """Shares of all clients, in percent: who moved, and who of them from one unchanged backend to another."""

    all: float
    others: float


def moved(before: Sequence[str], after: Sequence[str], touched: str) -> Moved:
    """`touched` is the backend that was changed: whoever moves to or from it has a reason to."""
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    others = sum(touched not in pair for pair in pairs)
    return Moved(100 * len(pairs) / len(before), 100 * others / len(before))


def needed(count: int, operation: str) -> float:
    """The share of all clients that has to move for every backend to have its fair share, in percent."""
    share = {
        "one added": 1 / (count + 1),
        "one removed": 1 / count,
        "one drained": 1 / count,
        "one doubled": 2 / (count + 1) - 1 / count,
    }
    return 100 * share[operation]


def indices(count: int, rounds: int) -> list[int]:
    """Which backends are touched: the first, the last, and evenly between."""
    return sorted({round(i * (count - 1) / max(1, rounds - 1)) for i in range(rounds)})


def operate(
    make: Callable[[Sequence[Backend]], Table], count: int, rounds: int, hashes: Sequence[int]
) -> dict[str, list[Moved]]:
    """Who moved, by operation and round."""
    backends = pool(count)
    before = make(backends).where(hashes)
    found: dict[str, list[Moved]] = {}
    for operation in OPERATIONS:
        # All backends are added last, so once will do.
        for index in indices(count, 1 if operation == "one added" else rounds):
            after = changed(backends, operation, index)
            touched = after[-1].key if operation == "one added" else backends[index].key
            found.setdefault(operation, []).append(moved(before, make(after).where(hashes), touched))
    return found


# --- report -----------------------------------------------------------------------------------------------------------

NOTE_ON_MOVES = """\
Clients that move, in percent of all. **Bold**: between two backends of which neither was changed. Those move for
nothing; the others have to, for the fair shares."""

NOTE_ON_NEIGHBOURS = f"""\
`hash modulo N` and `jhash mod N` are N slots without a table. IPVS mh is net/netfilter/ipvs/ip_vs_mh.c with its default
size, the flag mh-fallback, and a drain by a weight of 0, which leaves the table as it is; without the flag it refuses
the clients of a drained backend. Maglev is Eisenbud et al., NSDI 2016, section 3.4, which asks for more than 100 slots
a backend, for shares that differ by 1 % at most; it knows no drain but the removal. {PAPER_SIZE} slots are 16 times
those of IPVS. The table of our iptables engine is made for few rules first, and few moves second."""

NOTE_ON_STEPS = """\
**Backends that are added one by one.** The table of the nftables engine doubles at 33, 65, 129 and 257 of equal weight,
the one of the iptables engine becomes four times as large at 17, 65 and 257. That moves nobody by itself, since a
larger table is the smaller one cut finer."""

Found = dict[str, dict[int, dict[str, list[Moved]]]]


def measure(sizes: Sequence[int], rounds: int, hashes: Sequence[int]) -> Found:
    return {
        name: {count: operate(make, count, rounds, hashes) for count in sizes} for name, make in CONTESTANTS.items()
    }


def spreads(sizes: Sequence[int]) -> dict[str, dict[int, tuple[float, float]]]:
    return {name: {n: make(pool(n)).spread(pool(n)) for n in sizes} for name, make in CONTESTANTS.items()}


def _shown(values: Sequence[float]) -> str:
    """Percent, as a range where the rounds differ."""
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def lines(sizes: Sequence[int], rounds: int, found: Found) -> Iterator[str]:
    yield f"Computed for {CLIENTS:,} client addresses, hashed as nftables does it (jhash with our seed), and backends"
    yield f"of equal weight. Up to {rounds} of them are removed, drained or doubled in turn; ranges are least to most."
    yield ""
    yield "The share that a backend gets, over the fair one: smallest to largest."
    yield ""
    even = spreads(sizes)
    yield from report.table(
        ["backends", *map(str, sizes)],
        [[name, *(f"{low:.3f} to {high:.3f}" for low, high in by_size.values())] for name, by_size in even.items()],
    )
    yield ""
    yield from NOTE_ON_MOVES.splitlines()
    yield ""
    yield from report.table(["backends", "", *OPERATIONS], _rows(sizes, found))
    yield ""
    yield from NOTE_ON_NEIGHBOURS.splitlines()


def _rows(sizes: Sequence[int], found: Found) -> Iterator[list[str]]:
    for count in sizes:
        yield [f"{count}", "has to move", *(f"{needed(count, operation):.1f}" for operation in OPERATIONS)]
        for name, by_size in found.items():
            cells = []
            for operation in OPERATIONS:
                rounds = by_size[count][operation]
                cells.append(f"{_shown([m.all for m in rounds])}, **{_shown([m.others for m in rounds])}**")
            yield ["", name, *cells]


@dataclass(frozen=True)
class Step:
    """What adding a backend did: who moved, and whether the table has another size since."""

    moved: Moved
    slots: int
    grown: bool


def steps(make: Callable[[Sequence[Backend]], Table], hashes: Sequence[int], limit: int = MOST) -> dict[int, Step]:
    """What the n-th backend of a pool did, from the second on."""
    found, before = {}, make(pool(1))
    for count in range(2, limit + 1):
        after, newest = make(pool(count)), pool(count)[-1].key
        size = len(after.slots)
        found[count] = Step(moved(before.where(hashes), after.where(hashes), newest), size, size != len(before.slots))
        before = after
    return found


def step_lines(grown: dict[str, dict[int, Step]]) -> Iterator[str]:
    yield from NOTE_ON_STEPS.splitlines()
    yield ""
    head = [f"from 1 to {MOST}", "between the others, when it grows", "and at all other numbers, on average and most"]
    rows = []
    for name, found in grown.items():
        at = [f"{step.moved.others:.1f} % at {n} ({step.slots:,} slots)" for n, step in found.items() if step.grown]
        rest = {n: step.moved.others for n, step in found.items() if not step.grown}
        worst = max(rest, key=rest.__getitem__)
        rows.append([name, ", ".join(at), f"{sum(rest.values()) / len(rest):.1f} %, {rest[worst]:.1f} % at {worst}"])
    yield from report.table(head, rows)


def plots(sizes: Sequence[int], found: Found, grown: dict[str, dict[int, Step]]) -> Iterator[str]:
    needless = {
        name: {n: report.Rounds(tuple(m.others for m in by_size[n]["one removed"])) for n in sizes}
        for name, by_size in found.items()
    }
    labels = ("backends", "percent of all clients")
    title = "Clients of other backends that move when one backend is removed (where it is not 0)"
    # Nothing at all has no place on a logarithmic axis, and some tables reach it.
    positive = {
        name: {n: value for n, value in points.items() if min(value.values) > 0} for name, points in needless.items()
    }
    yield report.plot_lines(
        "hash-removed", title, labels, {name: points for name, points in positive.items() if points}, logarithmic=True
    )
    yield ""
    series = {
        name: {n: report.Rounds((step.moved.all,)) for n, step in by_count.items()} for name, by_count in grown.items()
    }
    counts, *_others = grown.values()
    series["has to move"] = {n: report.Rounds((needed(n - 1, "one added"),)) for n in counts}
    labels = ("backends, the new one included", "percent of all clients")
    yield report.plot_lines(
        "hash-steps", "Clients that move when one backend is added", labels, series, logarithmic=False
    )


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--sizes", default="3,10,50,100,500")
    options = parser.parse_args()
    sizes, hashes = [int(size) for size in options.sizes.split(",")], clients()
    found = measure(sizes, options.rounds, hashes)
    grown = {name: steps(make, hashes) for name, make in OURS.items()}
    text = [*lines(sizes, options.rounds, found), "", *step_lines(grown)]
    print("\n".join(text))
    if options.write:
        report.write("hash quality", [*text, "", *plots(sizes, found, grown)])


if __name__ == "__main__":
    main()
