# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New connections of each backend since they were first counted here: numbers that never fall.

The kernel counts in slots. A slot that is dealt to another backend begins at 0, so the sum of a backend's slots may
fall. Whoever takes a slot away says what it had counted (`taken`), as soon as anybody has ever asked for totals.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Callable, NamedTuple

from ..errors import HostError
from ..host import store
from ..host.store import Paths

#: A backend: the name of its service, and its own key.
Key = tuple[str, str]
_KEY = "totals"
#: Where nobody asks for so long that the file of what was taken has so many bytes, it is reckoned in.
MOST_BYTES = 1 << 18


class Totals(NamedTuple):
    """What the kernel said last, and the sums."""

    seen: Mapping[Key, int]
    sums: Mapping[Key, int]


def added(before: Totals, now: Mapping[Key, int]) -> Totals:
    """With another reading of the kernel's counters. Backends that are gone are forgotten."""
    sums = {key: before.sums.get(key, 0) + max(0, count - before.seen.get(key, 0)) for key, count in now.items()}
    return Totals(now, sums)


def without(before: Totals, gone: Mapping[Key, int]) -> Totals:
    """Once the kernel has let go of slots that had counted so much: the next reading begins so much lower."""
    return before._replace(seen={**before.seen, **{key: before.seen.get(key, 0) - n for key, n in gone.items()}})


def counted(paths: Paths, read: Callable[[], Mapping[Key, int]]) -> Mapping[Key, int]:
    """The sums with another reading of the kernel, which the next one begins from. Where it cannot be kept, that is an
    older one: then the sums are right nevertheless, unless the kernel began again at 0 meanwhile.

    Nobody waits for the reading, unless slots were taken away meanwhile, or somebody else was faster.
    """
    before = _stamps(paths)
    now = read()
    with store.lock(paths):
        if _stamps(paths) != before:
            now = read()
        found = added(without(_kept(paths), _taken(paths)), now)
        with contextlib.suppress(HostError):
            _keep(paths, found)
    return found.sums


def _stamps(paths: Paths) -> list[tuple[int, int, int] | None]:
    return [store.stamp(paths.run / name) for name in (store.TOTALS, store.TAKEN)]


def are_asked_for(paths: Paths) -> bool:
    """Whether anybody has asked for totals since the boot."""
    return (paths.run / store.TOTALS).exists()


def taken(paths: Paths, gone: Mapping[Key, int]) -> None:
    """Take note of what slots had counted that the kernel has let go of. To be called with the lock held, under which
    that was done. Raises `HostError`."""
    if not any(gone.values()):
        return
    path = paths.run / store.TAKEN
    store.append_text(path, "".join(json.dumps([*key, count]) + "\n" for key, count in gone.items() if count))
    if path.stat().st_size > MOST_BYTES:
        _keep(paths, without(_kept(paths), _taken(paths)))


def _kept(paths: Paths) -> Totals:
    return _parse(store.read_cache(paths.run / store.TOTALS))


def _keep(paths: Paths, found: Totals) -> None:
    keys = {**found.seen, **found.sums}
    items = [[*key, found.seen.get(key, 0), found.sums.get(key, 0)] for key in keys]
    store.write_text(paths.run / store.TOTALS, json.dumps({_KEY: items}))
    store.remove(paths.run / store.TAKEN)


def _taken(paths: Paths) -> dict[Key, int]:
    """By backend, since the totals were kept last."""
    found: dict[Key, int] = {}
    for line in (store.read_text(paths.run / store.TAKEN) or "").splitlines():
        with contextlib.suppress(ValueError, TypeError):
            service, backend, count = json.loads(line)
            found[str(service), str(backend)] = found.get((str(service), str(backend)), 0) + int(count)
    return found


def _parse(kept: Mapping[str, object]) -> Totals:
    seen: dict[Key, int] = {}
    sums: dict[Key, int] = {}
    items = kept.get(_KEY)
    for item in items if isinstance(items, list) else ():
        if isinstance(item, list) and len(item) == 4 and isinstance(item[2], int) and isinstance(item[3], int):
            seen[str(item[0]), str(item[1])], sums[str(item[0]), str(item[1])] = item[2], item[3]
    return Totals(seen, sums)
