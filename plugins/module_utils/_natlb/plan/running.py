# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A balancer in memory, for a process that stays: what its health checks find is in the kernel within milliseconds.

A change of health is first written down, if there is room, then made. As long as the rules are those of this process's
last commit and the declaration is the one that it knows, the change is the few lines of the services concerned. In
every other case the host is read and made right as a whole, as by a run. Files for the next boot are left to `restore`
as well, so it is to be called some time after changes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import HostError, NatlbError, OtherVersionError
from ..firewalls.forward import Opening
from ..host import date, processes, revision, scratch, store
from ..host.processes import Command
from ..host.revision import Revision
from ..host.store import Paths
from ..model import local_state
from ..model.choices import Variant
from ..model.effective import Findings, Place, effective
from ..model.entities import EMPTY, Config, Service
from ..model.least_connections import Multiples, levelled, of_known
from ..model.quorum_memory import is_whole, remembering
from ..packets import family_of
from ..ruleset.normal_form import NormalForm
from ..ruleset.sections import Ruleset
from . import apply, health_history, overlay, rollback, taken, unchanged, waiting
from . import request as requests
from .apply import Plan
from .backend_connections import BackendConnections, end_untranslated
from .kept_request import KeptRequest
from .known_services import KnownServices, Step
from .outcome import Outcome
from .overlay import Overlay
from .unchanged import Asked
from .uncollected import uncollected
from .unwritten import Unwritten


@uncollected()
def restore(paths: Paths, variant: Variant | None = None) -> Outcome:
    """Make the host be what the last run declared, with overrides and health. Raises `HostError`.

    While a change waits for its confirmation, that is the change: see `waiting`.
    """
    with waiting.lock(paths) as directory:
        return carry_out(paths, variant, directory)[1]


def carry_out(paths: Paths, variant: Variant | None, directory: Path | None) -> tuple[Plan, Outcome, Revision | None]:
    """The same, with the revision that it leaves, where that is certain. To be called with the lock held.

    A change waits in `directory`. Units and other files of the system are left to runs of the module: the sandbox of
    the agent keeps it from them, and a unit that somebody has changed must not keep the rules from coming back.
    """
    if directory is not None:
        return waiting.follow(paths, directory, variant)
    request, _warnings = requests.restored(replace(paths, system=None), variant)
    return (*apply.carry_out(request, "present", Asked("", "")), unchanged.last_revision(paths))


class Running:
    """What is declared on this host, what was found of its backends, and the rules that are live."""

    def __init__(self, paths: Paths = store.DEFAULT_PATHS, variant: Variant | None = None) -> None:
        self._paths = paths
        self._variant = variant
        self._findings: Findings = {}
        self._multiples: Multiples = {}
        self._plan: Plan | None = None
        self._known: KnownServices | None = None
        self._declared: dict[str, Service] = {}
        #: Whose the connections are that the kernel remembers.
        self._connections = BackendConnections(())
        self._revision: Revision | None = None
        #: What is live where the kernel does not number commits.
        self._listed: Ruleset | None = None
        self._unwritten = Unwritten()
        #: What lets our connections pass through the FORWARD chains of others, as listed.
        self._openings: list[tuple[Opening, Ruleset]] = []
        #: Grows with each change of what is declared, found, or said.
        self.version = 0
        #: Whether rules were loaded of which no run has heard how the kernel lists them.
        self._untold = False
        self._request = KeptRequest(paths)
        #: The files of what operators have said. An order may change no rule, as one for a dead backend.
        self._said: list[object] = []
        #: Where the change waits whose declaration this is; None where it is the kept one.
        self._waiting: Path | None = None

    @property
    def config(self) -> Config:
        """What is declared."""
        return self._plan.request.config if self._plan else EMPTY

    @property
    def findings(self) -> Findings:
        return self._findings

    @property
    def multiples(self) -> Multiples:
        return self._multiples

    def is_current(self) -> bool:
        """Whether the rules and the declaration are those that are known here."""
        return self._is_declared() and self._are_rules_current()

    def _is_declared(self) -> bool:
        """Whether the declaration that is live is the one known here. One that was not confirmed is not any more."""
        return self._is_same_change() and self._said == self._overrides()

    def _is_same_change(self) -> bool:
        return rollback.waiting(self._paths) == self._waiting and self._request.is_same()

    def _overrides(self) -> list[object]:
        return [store.stamp(folder / store.OVERRIDES) for folder in (self._paths.etc, self._paths.run)]

    def _are_rules_current(self) -> bool:
        if self._plan is None:
            return False
        # Of iptables-legacy nothing tells but a look.
        if self._reopened(of_legacy=True):
            return False
        if not self._plan.engine.is_numbered:
            return self._listed == self._plan.engine.listed()
        return self._revision is not None and self._revision == revision.current()

    @uncollected()
    def restore(self) -> Outcome:
        """See `restore`; what is live is known afterwards."""
        try:
            with waiting.lock(self._paths) as directory:
                return self._restore(directory)
        except OtherVersionError as waits:
            return self._leave_to(waits)

    def _restore(self, directory: Path | None) -> Outcome:
        """The same. To be called with the lock held."""
        self._learn()
        self._revision = self._listed = None
        gone = self._reload_missing()
        self._unwritten.retry()
        plan, outcome, left = carry_out(self._unwritten.seen(self._paths), self._variant, directory)
        self._know(plan, directory)
        self._openings = [(opening, opening.as_loaded()) for opening in plan.path.openings if opening.rendered]
        self._known = KnownServices(plan.engine, plan.laid.live, plan.around, plan.rendered)
        self._known.prepare()
        if plan.engine.is_numbered:
            self._revision = left
        else:
            self._listed = plan.engine.listed()
        if gone and outcome.transaction == "none":
            outcome.transaction = "replace"
        elif outcome.transaction != "none":
            end_untranslated(plan.laid.config)
        return outcome

    def _know(self, plan: Plan, directory: Path | None) -> None:
        """Take note of what is declared, and found."""
        self._request.read()
        self._said = self._overrides()
        self._waiting = directory
        self._plan = plan
        self.version += 1
        self._findings = dict(plan.laid.findings)
        self._multiples = plan.laid.multiples
        self._declared = {service.name: service for service in plan.request.config.services}
        self._connections = BackendConnections(plan.request.config.services)

    def _leave_to(self, waits: OtherVersionError) -> Outcome:
        """Let the program that a change which waits brings make its rules follow. The backends of the former
        declaration are checked meanwhile: this program may not be able to read the other one. Raises `HostError`."""
        plan = self._plan or apply.make_plan(requests.restored(replace(self._paths, system=None), self._variant)[0])
        findings = self._findings or plan.laid.findings
        directory, self._revision, self._listed, changed = waiting.let_follow(
            self._paths, self._variant, waits.program, plan.engine
        )
        self._know(plan, directory)
        self._findings, self._known, self._openings = dict(findings), None, []
        return Outcome(changed, "", plan.engine.name, "none", len(plan.request.config.services), {}, [])

    @property
    def is_left_to_another(self) -> bool:
        """Whether the rules are those of another version, whose change waits."""
        return self._waiting is not None and self._known is None

    def _learn(self) -> None:
        """Keep how the kernel lists what was loaded here, where it cannot be asked beforehand, as in the sandbox of the
        agent's unit: a run would take it for rules of somebody else, and load it again."""
        if not self._untold or self._plan is None or self._known is None or self._revision is None:
            return
        self._untold = False
        if scratch.is_there():
            return
        engine, rules = self._plan.engine, self._known.rules
        normal = NormalForm(engine, rules, rules, None).known_after_load()
        if revision.current() == self._revision:
            kept = store.read_cache(self._paths.run / store.NORMAL)
            with contextlib.suppress(HostError):
                store.write_text(self._paths.run / store.NORMAL, json.dumps({**kept, engine.title: normal}))

    def reload_missing(self) -> bool:
        """Put back at once what somebody has taken away, as far as that can be told without reading the host, which
        takes longer: `restore` is to follow. Returns whether there was anything. Raises `HostError`."""
        with store.lock(self._paths):
            return self._reload_missing()

    def is_newly_closed(self) -> bool:
        """Whether somebody has closed the way of our connections, which the next `restore` is to open."""
        return self._plan is not None and self._known is not None and self._plan.path.is_newly_closed()

    def _reload_missing(self) -> bool:
        if self._plan is None or self._known is None or not self._is_declared():
            return False
        engine = self._plan.engine
        commands = [*self._reopened(of_legacy=False), *self._reopened(of_legacy=True)]
        missing = engine.missing(self._known.rules) if engine.is_numbered else {}
        if missing:
            commands += engine.commands(engine.plan({}, missing, missing))
        if not commands:
            return False
        processes.run_commands(commands)
        end_untranslated(self._plan.laid.config)
        return True

    def _reopened(self, of_legacy: bool) -> list[Command]:
        """What puts openings back that are gone, or stand behind a denial."""
        if self._plan is None:
            return []
        tried = self._plan.path.tried
        concerned = [item for item in self._openings if item[0].is_legacy == of_legacy and not item[0].stands()]
        return [command for opening, wanted in concerned for command in opening.again(tried(), wanted)]

    @uncollected()
    def find(self, findings: Findings) -> Outcome | None:
        """Take note of what health checks found of some backends, and let the rules follow. Raises `HostError`.

        Returns the outcome where the whole host was read for it.
        """
        changed = {place: item for place, item in findings.items() if self._findings.get(place) != item}
        former = self._findings
        self._findings = self._remembering({**former, **findings}, {place.service for place in changed})
        self.version += 1
        try:
            text = local_state.dump_findings(self._findings, overlay.identity())
            outcome = self._follow({place.service for place in changed}, self._paths.run / store.HEALTH, text)
        except NatlbError:
            # All of it is still to be done, by the next attempt.
            self._findings = former
            raise
        dead = (place for place, finding in changed.items() if finding.state == "down")
        self._connections.end_of_dead(dead, self._declared)
        return outcome

    def _remembering(self, findings: Findings, names: Collection[str | None]) -> Findings:
        """The findings, and whether these services are below their quorums with them."""
        services = (self._declared[name] for name in names if name in self._declared)
        return remembering(services, self._plan.laid.overrides if self._plan else {}, findings, date.utc())

    def kept_below(self) -> Findings | None:
        """Which services are below their quorums, as it is written down: an order of an operator may have found out.
        None where another declaration is live by now, which is not to be judged by this one."""
        if not any(service.quorum for service in self.config.services):
            return {}
        # A run writes what it declares first, so this is read first.
        text = self._unwritten.text(self._paths.run / store.HEALTH)
        if not self._is_same_change():
            return None
        found = local_state.parse_findings(text, overlay.identity()).entries
        return {place: item for place, item in found.items() if is_whole(place)}

    def unwritten(self) -> str:
        """Why what was found is in memory alone, after one more attempt to write it; empty where it is not. A run that
        holds the lock is not waited for: no check would be made meanwhile."""
        if self._unwritten.trouble:
            with contextlib.suppress(HostError), store.lock(self._paths, wait_s=0.0):
                self._unwritten.retry()
        return self._unwritten.trouble

    def remember(self, changes: Findings) -> None:
        """Add changes of health to what is kept of them. Raises `HostError`."""
        health_history.note(self._paths, changes)

    def keep_memories(self) -> None:
        """Let that survive a reboot, if the rules do. Raises `HostError`."""
        if self.request is not None and self.request.persist:
            health_history.keep(self._paths)

    @property
    def request(self) -> requests.Request | None:
        """What is declared, with all that a run was asked for. None before the first `restore`."""
        return self._plan.request if self._plan else None

    def standing(self) -> tuple[requests.Request, Overlay] | None:
        """The request, and what overrides and health make of it now. None before the first `restore`."""
        if self._plan is None:
            return None
        now = self._effective(self.config.services)
        laid = replace(self._plan.laid, config=now, findings=dict(self._findings), multiples=self._multiples)
        return self._plan.request, laid

    def is_needed(self, address: str) -> bool:
        """Whether nobody would serve a service without the backend at this address: no other, and no backup."""
        concerned = (s for s in self.config.services if any(backend.address == address for backend in s.backends))
        return any(
            not replace(s, backends=tuple(b for b in s.backends if b.address != address)).serving(family_of(address))
            for s in self._effective(concerned).services
        )

    @property
    def plan(self) -> Plan | None:
        """What the last `restore` has planned. Findings of later checks are not in it."""
        return self._plan

    def to_level(self) -> Sequence[Service]:
        """The services of `least_connections`, with the backends that serve now."""
        if self.is_left_to_another:
            return ()
        return self._effective(s for s in self.config.services if s.method == "least_connections").services

    def active_of(self, services: Iterable[Service]) -> Iterable[tuple[Place, bytes]]:
        """The connections of declared services both of whose ends are there, see `BackendConnections`."""
        return self._connections.active_of(services)

    @uncollected()
    def level(self, multiples: Multiples) -> Outcome | None:
        """Deal new connections so, of the services that these backends are of. As `find`."""
        changed = {place.service for place, item in multiples.items() if self._multiples.get(place, 1.0) != item}
        if not changed:
            return None
        former = self._multiples
        self._multiples = of_known({**former, **multiples}, self.config.services)
        try:
            text = local_state.dump_multiples(self._multiples, overlay.identity())
            return self._follow(changed, self._paths.run / store.MULTIPLES, text)
        except NatlbError:
            self._multiples = former
            raise

    def _follow(self, concerned: Iterable[str | None], path: Path, text: str) -> Outcome | None:
        """Write this down, and let the rules of these services follow, by themselves where they can. Both with the lock
        held: whoever looks at the host must not take it for a rule that is missing."""
        try:
            with waiting.lock(self._paths) as directory:
                self._unwritten.write(path, text)
                done = self.is_current() and self._followed(name for name in concerned if name)
                # A change that waits has more to follow than the rules.
                return self._restore(directory) if directory is not None or not done else None
        except OtherVersionError as waits:
            with store.lock(self._paths):
                self._unwritten.write(path, text)
            return self._leave_to(waits)

    def _followed(self, names: Iterable[str]) -> bool:
        """Whether the rules of these services could be changed by themselves. To be called with the lock held."""
        step = self._step([self._declared[name] for name in names if name in self._declared])
        if step is None or self._plan is None or self._revision is None or self._known is None:
            return False
        engine, began = self._plan.engine, self._revision
        expected = began.after(engine.commits(step.transaction))
        self._revision = None
        try:
            left = step.transaction
            with taken.noted(self._plan.request, engine):
                if began.generation is not None:
                    left = engine.made_at_once(left, self._known.rules, began.generation)
                processes.run_commands(engine.commands(left))
        except HostError:
            return False
        self._known.made(step)
        if revision.current() != expected:
            # Somebody else has changed rules meanwhile.
            return False
        self._revision = expected
        self._untold = True
        return True

    def _step(self, declared: list[Service]) -> Step | None:
        if self._plan is None or self._known is None:
            return None
        return self._known.step(levelled(self._effective(declared), self._multiples).services)

    def _effective(self, declared: Iterable[Service]) -> Config:
        overrides = self._plan.laid.overrides if self._plan else {}
        return effective(replace(self.config, services=tuple(declared)), overrides, self._findings)
