# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""New connections of each backend since they were first counted here: numbers that never fall.

The kernel counts in slots. A slot that is dealt to another backend begins at 0, so the sum of a backend's slots may
fall. What a backend got between the last look and such a moment is lost; nothing is counted twice. Pure but for the
file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from ..errors import HostError
from ..host import store
from ..host.store import Paths
from .activity import Key

_KEY = "totals"


class Totals(NamedTuple):
    """What the kernel said last, and the sums."""

    seen: Mapping[Key, int]
    sums: Mapping[Key, int]


def added(before: Totals, now: Mapping[Key, int]) -> Totals:
    """With another reading of the kernel's counters. Backends that are gone are forgotten."""
    sums = {key: before.sums.get(key, 0) + max(0, count - before.seen.get(key, 0)) for key, count in now.items()}
    return Totals(now, sums)


def counted(paths: Paths, now: Mapping[Key, int]) -> Mapping[Key, int]:
    """The sums with this reading, which the next one begins from. Where it cannot be kept, that is an older one: then
    the sums are right nevertheless, unless the kernel began again at 0 meanwhile."""
    path = paths.run / store.TOTALS
    found = added(_parse(store.read_cache(path)), now)
    items = [[*key, count, found.sums[key]] for key, count in now.items()]
    with contextlib.suppress(HostError):
        store.write_text(path, json.dumps({_KEY: items}))
    return found.sums


def _parse(kept: Mapping[str, object]) -> Totals:
    seen: dict[Key, int] = {}
    sums: dict[Key, int] = {}
    items = kept.get(_KEY)
    for item in items if isinstance(items, list) else ():
        if isinstance(item, list) and len(item) == 4 and isinstance(item[2], int) and isinstance(item[3], int):
            seen[str(item[0]), str(item[1])], sums[str(item[0]), str(item[1])] = item[2], item[3]
    return Totals(seen, sums)
