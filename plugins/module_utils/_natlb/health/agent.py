# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's loop: checks run, what they find goes into the rules, and rules that somebody took away come back.

One thread waits for sockets. Whatever reads the host as a whole and can wait runs in a child process, so that checks go
on meanwhile. Nothing that this process knows is needed by another start: findings are in a file, rules in the kernel.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Callable, Protocol

from ..errors import HostError, NatlbError
from ..host import service_manager, store
from ..host.commits import Commits
from ..model import history
from ..model.effective import Finding, Findings, Place
from ..model.entities import Service
from ..model.quorum_memory import crossed, is_whole
from ..plan.running import Running
from .forked import forked
from .levels import Levels
from .pace import Calm, Pace, Settling
from .publisher import Publisher
from .suspects import Suspects
from .unasked import Unasked

#: Changes of health that reach the kernel at once, and a second in the long run: a backend that flaps loads nobody.
BURST, RATE = 20, 4.0
#: The same of looks for what somebody has taken away.
LOOKS, LOOKS_RATE = 50, 5.0
#: How often the kept request is looked at, and rules where the kernel does not tell of commits.
LOOK_S = 1.0
#: How long commits of others are let come in before the rules are looked at: a reload of a firewall makes several.
QUIET_S = 0.02
#: After an error, and after the first one of several: others may have changed rules in the same moment.
RETRY_S, FIRST_RETRY_S = 2.0, 0.05
#: How long an error that stays is not said again.
REPEAT_S = 60.0
#: After so many readings of the host that leave the FORWARD chain of others closed, it is for good.
CLOSED_TIMES = 5


class Event(Protocol):
    """A backend is found to be otherwise than before. `places` are those of it in all services that ask so."""

    @property
    def places(self) -> Sequence[Place]:
        """Of the backend, in each service."""

    @property
    def finding(self) -> Finding:
        """How it is now."""

    @property
    def weight(self) -> float | None:
        """The part of its weight that it is to get; None is all of it."""

    @property
    def name(self) -> str:
        """For people."""


class Checker(Protocol):
    """What asks the backends (`checks.py`). Times are of the monotonic clock."""

    unasked: Unasked

    def set_checks(self, services: Sequence[Service], findings: Findings, now: float) -> None:
        """Ask these services' backends from now on."""

    def next_due(self) -> float | None:
        """When `advance` is to be called next."""

    def advance(self, now: float) -> None:
        """Begin what is due, and end what is late."""

    def check_now(self, address: str, port: int, watch: Callable[[], Callable[[], bool]], is_needed: bool) -> None:
        """Clients get no answer from this backend; `watch` gives what tells later whether others did since then."""

    def take_events(self) -> Sequence[Event]:
        """What happened since the last call."""


class Agent:
    """One balancer's agent. `run` returns once `stop` was called."""

    def __init__(
        self,
        running: Running,
        checker: Checker,
        selector: selectors.BaseSelector,
        commits: Commits | None,
        say: Callable[..., None] = service_manager.say,
        publisher: Publisher | None = None,
    ) -> None:
        self._publisher = publisher
        self._running, self._checker, self._selector, self._say = running, checker, selector, say
        self._commits = commits
        self._found: dict[Place, Finding] = {}
        #: What is to be said once that is in the kernel.
        self._untold: list[tuple[str, dict[str, str]]] = []
        self._pace = Pace(BURST, RATE)
        self._looks = Pace(LOOKS, LOOKS_RATE)
        self._stopped = False
        #: How often rules were put back that somebody had changed.
        self.restored = 0
        #: When something is to be done next; None where it need not.
        self._restore_at: float | None = 0.0
        self._settling = Settling()
        self._look_at = 0.0
        self._began = False
        self._status = ""
        self._calm = Calm()
        self._retry_s = FIRST_RETRY_S
        #: The services below their quorums that were told of.
        self._below: Findings = {}
        #: What the last attempt failed with, and when it is said again.
        self._trouble, self._complain_at = "", 0.0
        self._unwritten = ""  # Why what was found is in no file.
        #: Whether somebody has changed rules, and it is still to be looked what that does to ours.
        self._looks_for_harm = False
        #: Whether the FORWARD chain of others stays closed to our connections, whatever is done.
        self._stays_closed = False
        self._closed_times = 0
        self._suspects = Suspects()
        self._levels = Levels(selector, self._running.active_of)
        self._child: int | None = None
        self._alive_at = 0.0
        self._watchdog_s = service_manager.watchdog_s()
        if commits is not None:
            selector.register(commits, selectors.EVENT_READ, self._read_commits)

    def stop(self) -> None:
        """A signal handler calls this, maybe while the lock is waited for: a run that restarts the agent holds it."""
        self._stopped = True
        store.end_waiting()

    def run(self) -> None:
        # Whoever starts it may hold the lock that the first reading needs, and waits for this.
        service_manager.notify(READY="1")
        while not self._stopped:
            now = time.monotonic()
            self._do(now)
            for key, mask in self._selector.select(max(0.0, self._next(now) - time.monotonic())):
                key.data(mask)
        service_manager.notify(STOPPING="1")

    # -- what is done ------------------------------------------------------------------------------------------------

    def _do(self, now: float) -> None:
        self._tell_alive(now)
        self._checker.advance(now)
        self._suspect(now)
        for event in self._checker.take_events():
            self._note(event)
        unasked = self._checker.unasked.told(now)
        if unasked:
            self._say(unasked, service_manager.WARNING)
        try:
            self._look_for_harm(now)
            self._act(now)
            self._level(now)
            if not self._found and self._restore_at is None:
                self._retry_s = FIRST_RETRY_S
                self._trouble = ""
        except NatlbError as error:
            if not self._stopped:
                self._complain(str(error), now)
            self._restore_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, RETRY_S)
        if self._publisher is not None:
            self._publisher.advance(now)
        self._reap()

    def _complain(self, trouble: str, now: float) -> None:
        """Say what keeps the rules from being made. What goes on is not said at each attempt."""
        if trouble != self._trouble or now >= self._complain_at:
            self._say(f"{trouble}; trying again", service_manager.WARNING)
            self._complain_at = now + REPEAT_S
        self._trouble = trouble

    @property
    def troubles(self) -> list[str]:
        """What keeps the rules from following, for whoever asks for the state of the host."""
        found = [f"the agent cannot make the rules follow: {self._trouble}"] if self._trouble else []
        return [*found, *([f"the agent cannot keep what it has found: {self._unwritten}"] if self._unwritten else [])]

    def _level(self, now: float) -> None:
        """Have new connections dealt so that active ones are level."""
        if now >= self._levels.due:
            self._levels.set_services(self._running.to_level(), self._running.multiples, now)
            self._levels.begin(now)
        found = self._levels.take()
        if found is not None:
            outcome = self._running.level(found)
            if outcome is not None and outcome.transaction == "replace":
                self._tell_back(outcome.transaction)

    def _suspect(self, now: float) -> None:
        """Have backends checked at once that clients wait for in vain."""
        if now < self._suspects.due or self._checker.next_due() is None:
            return
        try:
            for suspect in self._suspects.scan(now):
                watch = partial(self._suspects.answered_from_now_on, suspect)
                is_needed = self._running.is_needed(suspect.address)
                self._checker.check_now(suspect.address, suspect.port, watch, is_needed)
        except NatlbError as error:
            self._suspects.due = now + RETRY_S
            self._say(f"{error}; backends are checked at their intervals alone", service_manager.WARNING)

    def _act(self, now: float) -> None:
        if now >= self._look_at:
            self._look(now)
        due = self._restore_at is not None and now >= self._restore_at
        if due:
            self._restore(now)
        if self._found and self._pace.take(now):
            found, self._found = self._found, {}
            before = self._running.findings
            changes = history.changes(before, found)
            try:
                outcome = self._running.find(found)
            except NatlbError:
                self._found = {**found, **self._found}
                raise
            if outcome is not None:
                # The whole host was made right, before the next attempt to do so was due.
                self._trouble = ""
                self._follow_declaration(now)
                if outcome.transaction == "replace":
                    self._tell_back(outcome.transaction)
            if outcome is None:
                self._settling.changed(now)
            else:
                self._settling.done()
            for line, fields in self._untold:
                self._say(line, service_manager.NOTICE, **fields)
            self._untold.clear()
            self._tell_crossed(self._running.findings)
            # What boots was written as well where the whole host was read, and otherwise is in a while.
            self._remember(changes, lasting=outcome is not None)
        if self._settling.at is not None and now >= self._settling.at and self._child is None:
            self._settling.done()
            self._child = forked(self._settle)

    def _look(self, now: float) -> None:
        """See whether rules and declaration are those that are known here."""
        self._look_at = now + LOOK_S
        before, self._unwritten = self._unwritten, self._running.unwritten()
        if self._unwritten and not before:
            self._say(f"{self._unwritten}; the rules follow nevertheless", service_manager.WARNING)
        if self._running.is_current():
            return
        # Where readings are rare, the next one may be some way off.
        below = self._running.kept_below()
        if below is not None:
            self._tell_crossed(below)
        if self._restore_at is None:
            self._restore_at = max(now, self._calm.until)

    def _restore(self, now: float) -> None:
        """Read the host and make it right."""
        self._restore_at = None
        outcome = self._running.restore()
        self._calm.read(time.monotonic(), time.monotonic() - now, outcome.changed)
        # What somebody has closed while the host was read is not what the reading has left closed; what so many
        # in a row leave closed, no other one opens.
        closed = self._running.is_newly_closed()
        self._closed_times = self._closed_times + 1 if closed else 0
        self._stays_closed = self._closed_times >= CLOSED_TIMES or (closed and self._running.is_current())
        if closed and not self._stays_closed:
            self._look_closely()
        if outcome.transaction != "none" and self._began:
            self._tell_back(outcome.transaction)
        self._began = True
        plan = self._running.plan
        # While another program makes the rules follow, the plan is one of before, and has nothing new to tell.
        for problem in plan.laid.passing if plan and not self._running.is_left_to_another else ():
            # Damaged files of overrides or health, and overrides that have ended.
            self._say(problem, service_manager.WARNING)
        self._follow_declaration(now)
        self._tell_crossed(self._running.findings)

    def _follow_declaration(self, now: float) -> None:
        """Check what is declared now."""
        checked = [service for service in self._running.config.services if service.health is not None]
        self._checker.set_checks(checked, self._running.findings, now)
        self._levels.set_services(self._running.to_level(), self._running.multiples, now)
        request = self._running.request
        if self._publisher is not None and request is not None:
            self._publisher.set_up(request.metrics, now)
        count = len(self._running.config.services)
        status = f"{count} services, {len(checked)} of them with health checks"
        if self._running.is_left_to_another:
            status += "; a change by another version of natlb waits, and its program makes the rules follow"
        if status != self._status:
            self._status = status
            self._say(status)
            service_manager.notify(STATUS=status)

    def _remember(self, changes: Findings, lasting: bool) -> None:
        """No rule depends on it, so a full disk keeps nothing from being done."""
        try:
            self._running.remember(changes)
            if lasting:
                self._running.keep_memories()
        except HostError as error:
            self._say(f"{error}; the report will not know of this change", service_manager.WARNING)

    def _settle(self) -> None:
        """Let what boots follow."""
        is_foreign = not self._running.is_current()
        outcome = self._running.restore()
        if is_foreign and outcome.transaction != "none":
            self._tell_back(outcome.transaction)
        self._running.keep_memories()

    def _tell_back(self, how: str) -> None:
        self.restored += 1
        self._say(f"somebody has changed rules of natlb; they are back ({how})", service_manager.NOTICE)

    def _tell_crossed(self, found: Findings) -> None:
        """Say which services have fallen below their quorum since the last time, and which are above it again."""
        before, self._below = self._below, {place: item for place, item in found.items() if is_whole(place)}
        for news in crossed(before, self._below, self._running.config.services):
            priority = service_manager.WARNING if news.is_below else service_manager.NOTICE
            self._say(news.words, priority, NATLB_SERVICE=news.service)

    def _note(self, event: Event) -> None:
        finding = event.finding if event.weight is None else replace(event.finding, share=event.weight)
        before = self._running.findings.get(event.places[0])
        for place in event.places:
            self._found[place] = finding
        if before is not None and before.state == finding.state and before.reason == finding.reason:
            # The next step of a slow start.
            return
        services = ", ".join(sorted({place.service or "" for place in event.places}))
        part = "" if event.weight is None else f" with {100 * event.weight:.0f} % of its weight"
        reason = f": {finding.reason}" if finding.reason else ""
        fields = {"NATLB_SERVICE": services, "NATLB_BACKEND": event.name, "NATLB_STATE": finding.state}
        self._untold.append((f"{event.name} of {services} is {finding.state}{part}{reason}", fields))

    def _read_commits(self, _mask: int) -> None:
        if self._commits is None or not self._commits.drain() or self._running.is_current():
            return
        for who in self._commits.by:
            self._say(f"{who} has changed rules", service_manager.DEBUG)
        self._look_closely()

    def _look_closely(self) -> None:
        """Somebody has changed rules: look soon for what can be told at once, and read the host when it may be."""
        self._restore_at = max(time.monotonic() + QUIET_S, self._calm.until)
        self._looks_for_harm = True

    def _look_for_harm(self, now: float) -> None:
        """See what can be seen at once of what somebody has done to our rules, and put it right."""
        if not self._looks_for_harm or not self._looks.take(now):
            return
        self._looks_for_harm = False
        if self._running.reload_missing():
            self._tell_back("at once")
        if self._restore_at is not None and not self._stays_closed and self._running.is_newly_closed():
            self._restore_at = min(self._restore_at, now + QUIET_S)

    # -- children ----------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        if self._child is not None and os.waitpid(self._child, os.WNOHANG)[0]:
            self._child = None

    # -- time --------------------------------------------------------------------------------------------------------

    def _tell_alive(self, now: float) -> None:
        if self._watchdog_s is not None and now >= self._alive_at:
            self._alive_at = now + self._watchdog_s / 3
            service_manager.notify(WATCHDOG="1")

    def _next(self, now: float) -> float:
        due = [self._look_at, self._levels.due, self._publisher.due if self._publisher else self._look_at]
        if self._looks_for_harm:
            due.append(now + self._looks.wait_s(now))
        if self._found:
            due.append(now + self._pace.wait_s(now))
        if self._restore_at is not None:
            due.append(self._restore_at)
        if self._settling.at is not None or self._child is not None:
            due.append(max(now + 0.1, self._settling.at or 0.0))
        check = self._checker.next_due()
        if check is not None:
            due += [check, self._suspects.due]
        return min(due)
