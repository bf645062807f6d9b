# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of iptables, in each variant that a host may have."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..host import observation, scratch
from ..host.observation import observed
from ..host.proc import read
from ..host.processes import Command, find, identity, require, run, version
from ..model.choices import VARIANTS, Variant
from ..packets import FAMILIES, Family

_FAMILY_PROGRAM: dict[Family, str] = {"ip": "iptables", "ip6": "ip6tables"}


class Iptables:
    """iptables and ip6tables of one variant: `nft`, `legacy`, or None for the only one that the host has."""

    def __init__(self, variant: Variant | None) -> None:
        self.variant = variant
        require(self.program("ip"), "iptables")

    @property
    def title(self) -> str:
        return f"iptables-{self.variant}" if self.variant else "iptables"

    def identity(self) -> str:
        """See `Nft.identity`."""
        return identity(self.path("ip", "restore"))

    def program(self, family: Family, action: str = "") -> str:
        name = _FAMILY_PROGRAM[family] + (f"-{self.variant}" if self.variant else "")
        return f"{name}-{action}" if action else name

    def path(self, family: Family, action: str = "") -> str:
        return require(self.program(family, action), "iptables")

    def save(self, family: Family, counters: bool = False, table: str = "") -> str:
        """What iptables-save prints of all tables, or of one."""
        if counters:
            return run([self.path(family, "save"), "--counters"])
        words = ["--table", table] if table else []
        return self._read(self.path(family, "save"), *words)

    def builtin(self, family: Family, table: str, chain: str) -> str:
        """The rules of one built-in chain, as `-A` lines."""
        return self._read(self.path(family), "--wait", "30", "-t", table, "-S", chain)

    def commits(self, text: str) -> int:
        """How many commits of nf_tables `restore` makes of a text: one for each table."""
        return text.count("\nCOMMIT\n") if self.is_nft else 0

    @property
    def is_nft(self) -> bool:
        return (self.variant or default_variant()) == "nft"

    def _read(self, *argv: str) -> str:
        if self.is_nft:
            observation.note_generation()
            return run(argv)
        return _legacy(*argv)

    def restore(self, texts: Mapping[str, str]) -> list[Command]:
        """What loads these texts, by family; each table in one transaction."""
        return [
            (f"{self.path(family, 'restore')} --noflush --wait 30", texts[family])
            for family in FAMILIES
            if family in texts
        ]

    def normal(self, family: Family, text: str) -> str | None:
        """How the kernel lists the rules that it has been given; None where no namespace is to be had to ask it in.

        There is nothing to flush in a new namespace. But where all may go, iptables-nft does not keep a list of the
        chains that it reads of, which takes it half of the time for ten thousand services. Without a namespace nobody
        but the program itself can be asked, which knows less than the kernel.
        """
        listing = scratch.listed(self.program(family, "restore"), self.program(family, "save"), text)
        if listing is None:
            self.test(family, text)
        return listing

    def test(self, family: Family, text: str) -> None:
        """Whether the program accepts it; this hardly involves the kernel."""
        run([self.path(family, "restore"), "--noflush", "--test"], text)


@observed
def _legacy(*argv: str) -> str:
    """What a program of iptables-legacy prints of rules, without the time and what policies have counted."""
    lines = [line for line in run(argv).splitlines() if not line.startswith("#")]
    return "".join(re.sub(r"\[\d+:\d+\]$", "[0:0]\n", line) if line.startswith(":") else f"{line}\n" for line in lines)


def iptables_variants() -> list[Variant]:
    """The variants that the host offers by name."""
    return [variant for variant in VARIANTS if find(f"iptables-{variant}-restore")]


def default_variant() -> Variant | None:
    """The variant that plain `iptables` is, or None where there is no program of that name."""
    if find("iptables") is None:
        return None
    return "nft" if "nf_tables" in version(require("iptables", "iptables")) else "legacy"


def legacy_tables(family: Family) -> list[str]:
    """The tables of iptables-legacy on this host. iptables-legacy-save itself would create them."""
    name = {"ip": "ip_tables_names", "ip6": "ip6_tables_names"}[family]
    return read(f"/proc/thread-self/net/{name}").split()


def legacy_way(family: Family, chain: str, prefix: str) -> bool:
    """Whether this chain of nat leads to one with a name that begins so. Asked again and again, by no plan."""
    path = find(f"{_FAMILY_PROGRAM[family]}-legacy")
    if path is None or "nat" not in legacy_tables(family):
        return False
    return f" {prefix}" in run([path, "--table", "nat", "--list-rules", chain])


@observed
def legacy_has_rules() -> bool:
    """Whether anything but empty chains lives in iptables-legacy, of any owner."""
    for family in FAMILIES:
        path = find(f"{_FAMILY_PROGRAM[family]}-legacy-save") if legacy_tables(family) else None
        if path is not None and any(line.startswith("-A ") for line in run([path]).splitlines()):
            return True
    return False
