# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an engine is: how a configuration becomes rules in this host's kernel, whichever program carries them there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from ..host.processes import Command
from ..host.removed import Removed
from ..packets import Family
from ..ruleset.normal_form import Loader
from ..ruleset.sections import Ruleset
from ..ruleset.transaction import Transaction
from .choices import EngineName
from .clients import KnownClients
from .entities import Backend, Config, Service
from .hash_keys import Opening
from .surroundings import NOWHERE, Surroundings


class SomeServices(Protocol):
    """Renders some services of a configuration by themselves, the way they are among all of them."""

    def render(self, services: Sequence[Service]) -> Ruleset:
        """Their rules."""

    def after(
        self, before: Sequence[Service], after: Sequence[Service], services: Iterable[Service]
    ) -> tuple[SomeServices, set[str]] | None:
        """The same once some services have changed, and the names of others whose rules are then other ones, too.

        `services` are all, as they are then. None where the rules of all may be other ones.
        """


class Engine(Loader, Protocol):
    """`nftables` and `iptables`, each in a wing of its own."""

    @property
    def name(self) -> EngineName:
        """As a user asks for it."""

    @property
    def nat_priorities(self) -> Mapping[str, int]:
        """The priority of its chains of nat, by hook."""

    @property
    def shares_tables(self) -> bool:
        """Whether its rules are in tables that others use as well. What their rules do to it, and where its own stand
        among them, is then known once they are listed."""

    @property
    def loads_modules(self) -> bool:
        """Whether its program may have to load modules of the kernel by itself, as at boot."""

    def dealt(self, service: Service, family: Family) -> Mapping[str, int]:
        """How new connections are shared out in one family: a number for each backend by its key, in relation to each
        other. A backend that gets none may be left out."""

    def render(self, config: Config, around: Surroundings = NOWHERE) -> Ruleset:
        """The rules for a configuration."""

    def some_services(self, config: Config, around: Surroundings = NOWHERE) -> SomeServices:
        """What renders some of the services of a configuration."""

    def overtaken(self, live: Ruleset, rendered: Ruleset, by: Collection[tuple[str, Family]]) -> Ruleset:
        """The live rules, with those marked as different that have to be met before rules that let our connections pass
        through FORWARD, and are not. `by` are the programs, each with its family, whose FORWARD has these first."""

    def plan(self, live: Ruleset, normal: Ruleset, rendered: Ruleset) -> Transaction:
        """What leads from the live rules to the wanted ones, which the kernel lists as `normal`."""

    def delta(self, live: Ruleset, wanted: Ruleset) -> Transaction:
        """The same between some sections of each, with all others left as they are. `wanted` is as rendered."""

    def commands(self, transaction: Transaction) -> list[Command]:
        """What carries it out."""

    def made_at_once(self, transaction: Transaction, known: Ruleset, generation: int) -> Transaction:
        """Carry out what can be carried out without a program, which takes longer. Returns what is left for `commands`.

        `known` are all rules that are live, as rendered, and `generation` is the number of the commit that made them.
        Raises `HostError` where somebody has made another one since.
        """

    @property
    def is_numbered(self) -> bool:
        """Whether its commits are those of nf_tables, which the kernel numbers."""

    def is_gone(self) -> bool:
        """Whether the kernel holds nothing at all of ours, told without listing anything. Only where it is numbered."""

    def missing(self, rules: Ruleset) -> Ruleset:
        """Which of these rules somebody has taken away, and what else has to be loaded with them, as far as that can be
        told without listing anything. Only where commits are numbered."""

    def commits(self, transaction: Transaction) -> int:
        """How many commits of nf_tables that makes."""

    def fallback(self, transaction: Transaction, rendered: Ruleset) -> Transaction | None:
        """Another way to the same rules, where the kernel has refused this one; None where there is none."""

    def boot(self, rendered: Ruleset, directory: str) -> tuple[dict[str, str], list[str]]:
        """Files by name, and the shell lines that load them."""

    def undo(self, live: Ruleset, wanted: Ruleset) -> list[Command]:
        """What turns what a run wants into what is live before it. Raises `HostError` where nothing would."""

    def undo_in_place(self, live: Ruleset, now: Ruleset) -> list[Command]:
        """The same from what is there now, so that whatever does not differ keeps its place and its counters."""

    def residue(self) -> str:
        """What is left of a change that was undone, in words; empty where nothing is."""

    def counters(self, config: Config) -> tuple[dict[tuple[str, str], int], KnownClients]:
        """New connections by (service, backend key), as counted since the rules were loaded, and the clients known."""

    def counted_by(self, removed: Removed, config: Config) -> dict[tuple[str, str], int]:
        """New connections by (service, backend key), as rules and elements had counted that are gone. Only where
        commits are numbered."""

    def picked(self, service: Service, opening: Opening) -> Backend | None:
        """The backend that the method picks; None where turns, chance, or a port that is not known do."""

    def retained(self, wanted: Ruleset) -> list[str]:
        """What of ours has to stay though it is not wanted, in words. It is known once the live rules are listed."""

    def refusals_needing_route(self, config: Config) -> set[str]:
        """The names of services whose refusals need a route to the listen address."""

    def warnings(self, config: Config) -> list[str]:
        """What this engine cannot do as declared, and does otherwise."""
