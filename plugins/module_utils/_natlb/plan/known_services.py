# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The services of a balancer in memory, with the rules that are live for them: what changes a few of them in
milliseconds, however many there are.

What it gives is the transaction. That the live rules are those known is for the caller to see to (`host/revision.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..model.engine import Engine, SomeServices
from ..model.entities import Config, Service
from ..model.surroundings import NOWHERE, Surroundings
from ..ruleset.known import Change, KnownRules
from ..ruleset.sections import Ruleset
from ..ruleset.transaction import Transaction


class Step(NamedTuple):
    """A change of some services that can be made, and what is known once it is."""

    transaction: Transaction
    change: Change
    services: dict[str, Service]
    some: SomeServices


class KnownServices:
    """Services may change their backends' states and weights. Everything else is another configuration."""

    def __init__(
        self, engine: Engine, config: Config, around: Surroundings = NOWHERE, rendered: Ruleset | None = None
    ) -> None:
        self._engine = engine
        self._services = {service.name: service for service in config.services}
        self._some: SomeServices = engine.some_services(config, around)
        self._rules = KnownRules(engine.render(config, around) if rendered is None else rendered)

    def prepare(self) -> None:
        """Do now what the first of many steps would take longer for."""
        self._rules.count()

    @property
    def rules(self) -> Ruleset:
        """All that is live, as rendered."""
        return self._rules.ruleset

    def step(self, changed: Iterable[Service]) -> Step | None:
        """What makes these services of the others of their names. None where the rules of all are to be rendered."""
        services = {service.name: service for service in changed if self._services[service.name] != service}
        before = [self._services[name] for name in services]
        later = {**self._services, **services}
        found = self._some.after(before, list(services.values()), later.values())
        if found is None:
            return None
        some, moved = found
        names = [*services, *sorted(moved - services.keys())]
        change = self._rules.change(
            self._some.render([self._services[name] for name in names]), some.render([later[name] for name in names])
        )
        if change is None:
            return None
        return Step(self._engine.delta(change.live, change.wanted), change, services, some)

    def made(self, step: Step) -> None:
        """Take note that the kernel has taken the transaction of a step."""
        self._rules.made(step.change)
        self._services.update(step.services)
        self._some = step.some
