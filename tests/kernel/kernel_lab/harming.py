# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What other firewalls do to all rules of the balancer, and how long ours are away."""

from __future__ import annotations

import itertools
import random
import subprocess
import time

from _natlb.host import nf_tables

#: What has to be there: table and family; or a rule in a chain that leads to another, in the first place if so said.
Ours = tuple[str, ...]


def harm(lines: list[tuple[str, str]], ours: list[Ours], within_s: float = 30.0) -> float:
    """Run shell lines, each with what it reads, and wait until all of ours is there. Returns how long that took, from
    the end of the last line on."""
    for line, text in lines:
        subprocess.run(["sh", "-ec", line], input=text, text=True, check=True, capture_output=True)
    began = time.monotonic()
    while not all(map(_is_there, ours)):
        if time.monotonic() > began + within_s:
            raise TimeoutError(f"not there: {[item for item in ours if not _is_there(item)]}")
        time.sleep(0.001)
    return time.monotonic() - began


def close_and_open(closing: str, ours: list[Ours], rounds: int, seed: int) -> list[float]:
    """The FORWARD chain is closed and opened again, round after round, at any moment between commits that concern
    nobody. Returns how long each time it took until all of ours is there."""
    chance = random.Random(seed)
    took = []
    for _round in range(rounds):
        harm([("iptables-nft -w 10 -F FORWARD; iptables-nft -w 10 -P FORWARD ACCEPT", "")], [])
        for _commit in range(chance.randrange(8)):
            harm([("nft add table inet passing; nft delete table inet passing", "")], [])
            time.sleep(chance.random() * 0.3)
        took.append(harm([("iptables-nft-restore -w 10", closing)], ours))
    return took


def _is_there(item: Ours) -> bool:
    if len(item) == 2:
        return item in nf_tables.tables()
    family, table, chain, target, *first = item
    rules = nf_tables.rules(family, table, chain) or []
    if first:
        rules = list(itertools.takewhile(lambda rule: b"NATLB." in rule, rules))
    return any(f"{target}\0".encode() in rule for rule in rules)


def wait_for_legacy(table: str, chain: str, jump: str, within_s: float = 30.0) -> None:
    """Until no rule of others stands before this one in a chain of iptables-legacy."""
    give_up = time.monotonic() + within_s
    while jump not in itertools.takewhile(lambda line: "NATLB." in line, _rules(table, chain)):
        if time.monotonic() > give_up:
            raise TimeoutError("\n".join(_rules(table, chain)))
        time.sleep(0.05)


def _rules(table: str, chain: str) -> list[str]:
    argv = ["iptables-legacy", "-w", "10", "-t", table, "-S", chain]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()[1:]
