# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fuzz: some thousand inputs as a test, 100,000 with NATLB_DRILLS=full; and the seeds that once found something."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import fuzz
import pytest
from fault_table import FULL, SEED, Row, Rows

INPUTS = 100_000 if FULL else 2_000
EXAMPLE = (
    "services[0].interface: 'eth0; reboot' is not the name of an interface "
    "(1 to 15 letters, digits, _ . or -; the first a letter, a digit or _)"
)
#: (seed, what it found)
SEEDS: list[tuple[int, str]] = [
    (1002218, "an interface that begins with @"),
    (1004691, "an interface that begins with --, which is an option to iptables and ip"),
    (1003775, "a health interval too large for a float: a traceback"),
    (1006890, "an affinity too large for a float: a traceback"),
]


@pytest.fixture(scope="module")
def known() -> set[str]:
    return fuzz.vocabulary(0)


def test_it_finds_what_it_is_meant_to_find(known: set[str]) -> None:
    """A renderer that quotes nothing and a parser that checks nothing would be noticed."""
    config = fuzz.parse_config(**fuzz.clean(random.Random(1)))
    good = fuzz.texts(config)
    look: Callable[[str, list[str]], str] = lambda nft, others: fuzz._foreign(nft, others, config, known)  # noqa: E731
    assert look(good[0], good[1:]) == ""
    for evil in ("flush ruleset", "$(zqx)", 'log prefix "zqx"', "zqx", "accept; reboot"):
        assert look(f"{good[0]}{evil}\n", good[1:]), evil
    for evil in ("-A INPUT -j ACCEPT;reboot", "-A NATLB.pre -j ZQX", "*zqx", "-A NATLB.pre --zqx 1", "-P INPUT DROP"):
        assert look(good[0], [f"{good[1]}{evil}\n", good[2]]), evil


def test_clean_declarations_are_taken(known: set[str]) -> None:
    rng = random.Random(SEED + 1)
    for _unused in range(400):
        declared = fuzz.clean(rng)
        fuzz.parse_config(**declared)
        assert fuzz.problem(declared, known) == "", declared


@pytest.mark.parametrize(("seed", "found"), SEEDS)
def test_seeds(seed: int, found: str, known: set[str]) -> None:
    assert fuzz.problem(fuzz.spoilt(random.Random(seed)), known) == "", found


def test_spoilt_declarations(known: set[str], rows: Rows) -> None:
    """Each input has a seed of its own, so that one that finds something can be kept in `SEEDS`."""
    found: dict[int, str] = {}
    taken = 0
    for seed in range(SEED * 1_000_000, SEED * 1_000_000 + INPUTS):
        declared = fuzz.spoilt(random.Random(seed))
        said = fuzz.problem(declared, known)
        if said:
            found[seed] = f"{said} {shortened(declared)}"
        elif seed % 20 == 0:
            taken += accepted(declared)
    assert taken, "nothing at all was accepted: this fuzz tests the first check only"
    rows["fuzz"] = Row("declaration with something evil in it", INPUTS, seen=EXAMPLE, unrepaired=len(found))
    assert not found, "\n".join(f"{seed}: {text}" for seed, text in list(found.items())[:20])


def accepted(declared: dict[str, Any]) -> bool:
    try:
        fuzz.parse_config(**declared)
    except fuzz.ConfigErrors:
        return False
    return True


def shortened(declared: dict[str, Any]) -> str:
    return repr(declared)[:600]
