# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Change between two rulesets as fast as the kernel can, with the core's own transactions."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from _natlb.host import processes
from _natlb.model.services import parse_config
from _natlb.nftables.engine import NftablesEngine
from _natlb.ruleset.sections import Ruleset

#: Counts what goes to a frontend and was not translated on its way in.
WATCH = """table ip watch {{
  chain forward {{
    type filter hook forward priority 0;
    ip daddr {vip} counter
  }}
}}
"""


def flip(first: Any, second: Any, times: int, limit_s: float, vip: str) -> tuple[int, int]:
    """Go from `first`, which is loaded, to `second` and back; (changes, packets that were not translated)."""
    engine = NftablesEngine()
    one, two = _loaded(engine, first), _loaded(engine, second)
    there, back = (_lines(engine, *pair) for pair in ((one, two), (two, one)))
    processes.run_commands(engine.nft.load([WATCH.format(vip=vip)]))
    # One program that reads transactions line by line: starting one for each would be the slow part.
    with subprocess.Popen(
        [engine.nft.path, "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as nft:
        assert nft.stdin is not None
        flips, end = 0, time.monotonic() + limit_s
        while flips < times and time.monotonic() < end:
            nft.stdin.write(back if flips % 2 else there)
            nft.stdin.flush()
            flips += 1
        _out, complaints = nft.communicate(timeout=60)
    assert not complaints, complaints[:1000]
    listing = engine.nft.list_table("ip", "watch", counters=True)
    return flips, int(listing.split("packets ")[1].split()[0])


def _loaded(engine: NftablesEngine, services: Any) -> tuple[Ruleset, Ruleset]:
    """(normal, rendered)"""
    rendered = engine.render(parse_config(services))
    normal: Ruleset = {}
    for unit, text in engine.texts(rendered).items():
        listing = engine.normal(unit, text)
        assert listing is not None
        normal.update(engine.parse(unit, listing))
    return normal, rendered


def _lines(engine: NftablesEngine, before: tuple[Ruleset, Ruleset], after: tuple[Ruleset, Ruleset]) -> str:
    transaction = engine.plan(before[0], *after)
    assert transaction.kind == "delta"
    return "".join("; ".join(text.splitlines()) + "\n" for text in transaction.texts.values())
