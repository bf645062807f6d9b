# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program nft, in this network namespace."""

from __future__ import annotations

from collections.abc import Iterable

from ..host import observation, scratch
from ..host.nf_tables import TableFamily
from ..host.processes import Command, identity, require, run


class Nft:
    """The program nft, in this network namespace."""

    def __init__(self) -> None:
        self.path = require("nft", "nftables")

    def identity(self) -> str:
        """What the normal form of a ruleset depends on: the program, and the kernel below it."""
        return identity(self.path)

    def terse(self, family: TableFamily, table: str) -> str:
        """A table without counters and without the elements of its sets."""
        observation.note_generation()
        return run([self.path, "--stateless", "--terse", "list", "table", family, table])

    def list_table(self, family: TableFamily, table: str, counters: bool = False) -> str:
        """A table with all elements, and with `counters` what was counted. Raises `HostError`."""
        observation.note_generation()
        return run([self.path, *([] if counters else ["--stateless"]), "-nn", "list", "table", family, table])

    def check(self, text: str) -> None:
        """Raises `HostError` where the kernel would refuse this text."""
        run([self.path, "--check", "-f", "-"], text)

    def normal(self, text: str) -> str | None:
        """How the kernel lists a ruleset that it has been given; None where no namespace is to be had to ask it in.

        Raises `HostError` where the kernel refuses the ruleset: without a namespace, this host's own.
        """
        listing = scratch.listed("nft -f -", "nft --stateless -nn list ruleset", text)
        if listing is None:
            self.check(text)
        return listing

    def load(self, texts: Iterable[str]) -> list[Command]:
        """What loads these, each in one transaction."""
        return [(f"{self.path} -f -", text) for text in texts]
