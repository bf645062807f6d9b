# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a run, as the user gave them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from ..errors import ConfigError, ConfigErrors, HostError
from ..host import proc
from ..host.store import Paths
from ..model import choices, values
from ..model.choices import Variant
from ..model.entities import EMPTY
from ..model.metrics import Metrics, parse_metrics
from ..model.services import parse_config
from ..model.tracking import Tracking, parse_tracking
from . import declaration, guard
from .request import Request

if TYPE_CHECKING:
    from .last_declaration import LastDeclaration


@dataclass(frozen=True)
class Options:
    """The options of the module `balancer`, under their names and with their defaults."""

    services: Any
    egress: Any = None
    engine: str = "auto"
    forwarding: bool = True
    firewall: str = "warn"
    transit: str = "drop"
    persist: bool = True
    state: str = "present"
    networks: Any = None
    mark_mask: Any = None
    conntrack: Any = None
    rollback_after: Any = 0
    allow_management_port: bool = False
    assume_installed: bool = False
    agent: bool = False
    metrics: Any = None

    def request(
        self,
        paths: Paths,
        variant: Variant | None,
        check: bool,
        program: Callable[[], str] | None = None,
        last: LastDeclaration | None = None,
    ) -> Request:
        """The same, checked and complete. Raises `ConfigErrors` with all that is wrong, and `HostError` for anybody but
        root."""
        try:
            return self._request(paths, variant, check, program, last)
        except (ConfigError, ConfigErrors):
            given = {option: getattr(self, option) for option in declaration.OPTIONS}
            declaration.check({option: value for option, value in given.items() if value is not None})
            raise

    def _request(
        self,
        paths: Paths,
        variant: Variant | None,
        check: bool,
        program: Callable[[], str] | None,
        last: LastDeclaration | None,
    ) -> Request:
        present = values.choice(self.state, "state", choices.STATES) == "present"
        if self.services is None and not self.egress and present:
            remedy = "write services: [] or state: absent to remove every service"
            raise ConfigError("services", "is missing", remedy)
        config = parse_config(self.services, self.egress, self.mark_mask, last.known if last else None, self.networks)
        rollback_after_s = declaration.rollback_seconds(self.rollback_after)
        if not present:
            config = EMPTY
        if not self.allow_management_port:
            guard.check(config, guard.endpoints(proc.parent_environments()))
        request = Request(
            config=config,
            engine=values.choice(self.engine, "engine", choices.ENGINES),
            variant=variant,
            forwarding=self.forwarding,
            persist=self.persist,
            paths=paths,
            rollback_after_s=rollback_after_s,
            firewall=values.choice(self.firewall, "firewall", choices.FIREWALL),
            transit=values.choice(self.transit, "transit", choices.TRANSIT),
            tracking=parse_tracking(self.conntrack) if present else Tracking(),
            agent=self.agent and present,
            metrics=parse_metrics(self.metrics, config) if present else Metrics(),
            program=program,
            expected=check and self.assume_installed,
            last=last,
        )
        if os.geteuid() != 0:
            raise HostError("only root may read or change the rules of this host (become: true)")
        return request
