# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine of a host without the programs. Either check mode plans for programs that are not installed yet, or the
programs are gone and everything is removed.

The rules of such a host cannot be read. The rules are shown in the form in which they would be loaded, and no kernel
validates them.
"""

from __future__ import annotations

from ..host import processes
from ..iptables.engine import IptablesEngine
from ..iptables.program import Iptables, legacy_has_rules
from ..model.choices import RequestedEngine, Variant
from ..model.clients import KnownClients
from ..model.engine import Engine
from ..model.entities import Config
from ..nftables.engine import NftablesEngine
from ..nftables.program import Nft
from ..packets import Family
from ..ruleset.sections import Ruleset
from . import engines

#: Where the packages of Debian and Red Hat put them, and the variant of iptables that both have by default.
_FOLDER = "/usr/sbin"
_VARIANT: Variant = "nft"
_NO_PROGRAMS = (
    "neither nft nor iptables is installed any more, so rules of natlb that are still in the kernel stay until the "
    "next reboot; everything else is removed (to remove them now, install the program that the host had, and run again)"
)


class _Nft(Nft):
    def __init__(self) -> None:
        self.path = f"{_FOLDER}/nft"


class _Iptables(Iptables):
    def __init__(self) -> None:
        self.variant = _VARIANT

    def path(self, family: Family, action: str = "") -> str:
        return f"{_FOLDER}/{self.program(family, action)}"


class _Unasked:
    """No kernel is asked, for nobody could have loaded anything there."""

    def identity(self) -> str:
        return ""

    def normal(self, _unit: str, _text: str) -> str | None:
        return None

    def listed(self) -> Ruleset:
        return {}

    def counters(self, _config: Config) -> tuple[dict[tuple[str, str], int], KnownClients]:
        return {}, {}


class ExpectedNftables(_Unasked, NftablesEngine):
    """The nftables engine, without nft."""

    def __init__(self) -> None:
        super().__init__(_Nft())


class ExpectedIptables(_Unasked, IptablesEngine):
    """The iptables engine, without iptables."""

    def __init__(self) -> None:
        super().__init__(_VARIANT, _Iptables())


def choose(requested: RequestedEngine, variant: Variant | None = None) -> tuple[Engine, list[str]]:
    """As `engines.choose` would on this host once it has the programs of the engine that is asked for."""
    if requested == "iptables":
        if processes.find("iptables-restore") is None:
            return ExpectedIptables(), []
    elif processes.find("nft") is None and not (requested == "auto" and legacy_has_rules()):
        return ExpectedNftables(), []
    return engines.choose(requested, variant)


def choose_to_remove(requested: RequestedEngine, variant: Variant | None = None) -> tuple[Engine, list[str]]:
    """As `engines.choose`, for a host on which nothing is to stay.

    Programs that are not there any more, or not the ones that are asked for, are no reason to leave the rest."""
    programs = {name: processes.find(program) is not None for name, program in engines.PROGRAMS.items()}
    if not any(programs.values()):
        return ExpectedNftables(), [_NO_PROGRAMS]
    if not programs.get(requested, True):
        requested = next(name for name, there in programs.items() if there)
    return engines.choose(requested, variant)
