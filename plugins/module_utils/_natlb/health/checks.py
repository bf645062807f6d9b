# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All checks of a balancer: when each is due, those under way, and what changed because of them.

One thread waits for all sockets, in a selector of its owner; the data of a key is called with what happened to it. Due
times stand in one heap. An entry of it is stale where its check is due at another time by now, and is passed over.
"""

from __future__ import annotations

import heapq
import operator
import selectors
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Callable, NamedTuple

from ..host.children import Child
from ..host.date import utc
from ..model.effective import Finding, Findings, Place
from ..model.entities import Service
from . import agent_line, http, state
from .attempt import Attempt, Done
from .check import Check
from .command import Command
from .datagram import Datagram
from .question import Asker, Question, questions
from .state import Outcome
from .stream import Connection, Conversation
from .unasked import Unasked
from .volley import Volley

#: Who comes this late was busy elsewhere, and may have left an answer unread: it gets one more look before it is late.
STALLED_S, GRACE_S = 0.02, 0.01
#: How often programs that were killed are looked after.
REAP_S = 1.0
#: A backend that clients wait for is asked at once, but no more often than this.
SUSPECT_S = 0.2
#: So many checks of it begin together, or `fall` where that is less: a network that loses one packet in ten loses those
#: of three checks once in a hundred times.
MOST_AT_ONCE = 5


class Event(NamedTuple):
    """A backend is otherwise than before. `places` are those of it in all services that ask so.

    `weight` is the share of its weight that it is to get; None is all of it. `name` is that of the backend.
    """

    places: tuple[Place, ...]
    finding: Finding
    weight: float | None
    name: str


class Status(NamedTuple):
    """A check, for people and programs. Times are of the monotonic clock."""

    question: Question
    askers: tuple[Asker, ...]
    finding: Finding | None
    #: How many results in a row speak against the finding, and how many are needed.
    against: int
    needed: int
    #: What the last one found: nothing before the first. `last` is the reason, for people.
    result: str
    last: str
    took_s: float | None
    #: When the last one began, and when the next one does; that one may be under way.
    began: float | None
    due: float | None
    #: By how much more often than `rise` it has to succeed to be up again, since it was flapping.
    damping: int

    @property
    def places(self) -> tuple[Place, ...]:
        """The backends that it is made for."""
        return tuple(asker.place for asker in self.askers)


class Checker:
    """Asks the backends of services. Times are of the monotonic clock."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        clock: Callable[[], float] = time.monotonic,
        date: Callable[[], str] = utc,
    ) -> None:
        self._selector, self._clock, self._date = selector, clock, date
        self._services: tuple[Service, ...] = ()
        self._checks: dict[Question, Check] = {}
        self._at: dict[str, list[Check]] = {}
        #: When, a number that makes each entry another one, and what.
        self._heap: list[tuple[float, int, Check]] = []
        self._ramps: dict[Check, float] = {}
        self._entries = 0
        self._events: list[Event] = []
        self.unasked = Unasked()
        #: Programs that were killed and are not gone yet.
        self._dying: list[Child] = []
        self._tls_contexts: dict[bool, Any] = {}
        self._reap_at = 0.0

    # -- what is asked -----------------------------------------------------------------------------------------------

    def set_checks(self, services: Sequence[Service], findings: Findings, now: float) -> None:
        """Ask these services' backends from now on. Checks that are the same go on; `findings` is what is known."""
        # Certificate authorities are read anew.
        self._tls_contexts.clear()
        if len(services) == len(self._services) and all(map(operator.is_, services, self._services)):
            for check in self._checks.values():
                self._tell_those_who_do_not_know(check, findings, now)
            return
        self._services = tuple(services)
        wanted = questions(services)
        for question in [question for question in self._checks if question not in wanted]:
            check = self._checks.pop(question)
            self._ramps.pop(check, None)
            self.unasked.discard(check)
            check.due = float("inf")
            if check.attempt is not None:
                check.attempt.close()
        self._at = {}
        for question, askers in wanted.items():
            check = self._checks.get(question) or self._added(question, askers, findings, now)
            check.askers = askers
            for address in dict.fromkeys(asker.address for asker in askers):
                self._at.setdefault(address, []).append(check)
            self._tell_those_who_do_not_know(check, findings, now)

    def _added(self, question: Question, askers: list[Asker], findings: Findings, now: float) -> Check:
        kept = next((findings[asker.place] for asker in askers if asker.place in findings), None)
        check = self._checks[question] = Check(question, kept)
        if kept is not None and kept.share < 1:
            self._resume(check, kept.share, max(asker.slow_start_s for asker in askers), now)
        self._push(check, state.first_due(check.identity, question.health, now))
        return check

    def _resume(self, check: Check, share: float, slow_start_s: float, now: float) -> None:
        """Go on where a part of its weight was left to a backend: by its own word, or because it was coming back."""
        if check.question.health.type == "agent":
            check.state.weight = share
        elif slow_start_s:
            check.back_at = now - state.elapsed_s(share, slow_start_s)
            check.told = {slow_start_s: share}
            self._ramps[check] = now

    def _tell_those_who_do_not_know(self, check: Check, findings: Findings, now: float) -> None:
        finding = check.finding
        if finding is None:
            return
        unaware = []
        for asker in check.askers:
            weight, _next = self._weight(check, asker.slow_start_s, now)
            known = findings.get(asker.place)
            if known is None or (known.state, known.share) != (finding.state, 1.0 if weight is None else weight):
                unaware.append(asker)
        if unaware:
            self._tell(check, unaware, now)

    def check_now(
        self,
        address: str,
        port: int,
        watch: Callable[[], Callable[[], bool]] = lambda: lambda: False,
        is_needed: bool = False,
    ) -> None:
        """Clients get no answer from this backend: it is asked at once, several times, and if none is answered, that is
        enough. It is not where it has answered anybody else meanwhile, as what `watch` gives tells, nor of one that is
        needed, since nobody would serve without it: then it is one failure as others are."""
        now = self._clock()
        for check in self._at.get(address, ()):
            concerned = any(asker.address == address and asker.port in (None, port) for asker in check.askers)
            standing = check.state
            if not concerned or standing.state == "down" or standing.is_suspected or now < check.suspect_at + SUSPECT_S:
                continue
            if not is_needed:
                check.has_answered = watch()
                standing.suspect(check.question.health.fall)
            check.suspect_at = now
            if check.attempt is not None and check.attempt.is_connecting:
                check.attempt.close()
                check.attempt = None
            self._push(check, now if check.attempt is None else check.deadline)

    def overview(self) -> Iterator[Status]:
        """Every check as it stands."""
        for check in self._checks.values():
            health, standing = check.question.health, check.state
            yield Status(
                question=check.question,
                askers=tuple(check.askers),
                finding=check.finding,
                against=standing.count,
                needed=standing.needed(health.fall, health.rise),
                result=check.result,
                last=check.last,
                took_s=check.took_s,
                began=check.started if check.number else None,
                due=check.due if check.attempt is None else None,
                damping=standing.damping,
            )

    def close(self) -> None:
        """End all checks."""
        for check in self._checks.values():
            if check.attempt is not None:
                check.attempt.close()
        self._services, self._checks, self._at, self._heap, self._ramps = (), {}, {}, [], {}

    # -- time --------------------------------------------------------------------------------------------------------

    def next_due(self) -> float | None:
        """When `advance` is to be called next."""
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].due:
            heapq.heappop(heap)
        due = [*self._ramps.values()]
        if heap:
            due.append(heap[0][0])
        if self._dying:
            due.append(self._reap_at)
        return min(due) if due else None

    def advance(self, now: float) -> None:
        """Begin what is due, and end what is late."""
        heap = self._heap
        while heap and heap[0][0] <= now + state.EARLY_S:
            due, _number, check = heap[0]
            # Nothing is late a little early.
            if due == check.due and due > now and check.attempt is not None:
                break
            heapq.heappop(heap)
            if due != check.due:
                continue
            if check.attempt is None:
                self._start(check, now)
            elif check.deadline > now:
                check.attempt.poll()
                self._push_attempt(check, now)
            elif now > check.deadline + STALLED_S and not check.graced:
                check.graced = True
                self._push(check, now + GRACE_S)
                check.attempt.poll()
            else:
                check.attempt.late(check.deadline - check.started)
        for check in [check for check, due in self._ramps.items() if due <= now]:
            self._tell(check, check.askers, now, again=True)
        if self._dying and self._reap_at <= now:
            self._dying[:] = [child for child in self._dying if child.reap() is None]
            self._reap_at = now + REAP_S

    def take_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _push(self, check: Check, due: float) -> None:
        check.due = due
        self._entries += 1
        heapq.heappush(self._heap, (due, self._entries, check))

    def _push_attempt(self, check: Check, now: float) -> None:
        attempt = check.attempt
        if attempt is not None:
            look_s = attempt.look_s
            self._push(check, min(check.deadline, now + look_s) if look_s else check.deadline)

    # -- one check ---------------------------------------------------------------------------------------------------

    def _start(self, check: Check, now: float) -> None:
        check.started = now
        check.number += 1
        check.graced = False
        check.due = float("inf")

        def done(outcome: Outcome) -> None:
            self._take(check, outcome)

        # A check that is a program is one in any case.
        several = check.state.is_suspected and check.question.health.type != "command"
        size = min(check.question.health.fall, MOST_AT_ONCE) if several else 1
        make = partial(self._attempt, check.question)
        check.attempt = attempt = Volley(make, size, done) if size > 1 else make(done)
        attempt.start()
        self._push_attempt(check, now)

    def _attempt(self, question: Question, done: Done) -> Attempt:
        kind, selector = question.health.type, self._selector
        if kind == "tcp":
            return Connection(question, selector, done)
        if kind == "command":
            return Command(question, selector, done, self._dying)
        if kind in ("udp", "dns"):
            return Datagram(question, selector, done)
        talk = (agent_line if kind == "agent" else http).talk(question)
        if kind != "https":
            return Conversation(question, selector, done, talk)
        from . import tls  # noqa: PLC0415  (it takes megabytes of memory)

        return tls.SecureConversation(question, selector, done, talk, self._tls_contexts)

    def _take(self, check: Check, outcome: Outcome) -> None:
        now = self._clock()
        check.attempt = None
        check.result, check.last, check.took_s = outcome.state, outcome.reason, now - check.started
        self.unasked.note(check, check.question.target, outcome)
        health = check.question.health
        before = check.state.state
        if outcome.state == "down" and check.state.is_suspected and check.has_answered():
            check.state.relent()
        changed = check.state.take(outcome, health.fall, health.rise, now)
        due = state.next_due(check.identity, health, check.state.count > 0, check.started, check.number)
        self._push(check, max(due, now))
        after = check.state.state
        if not changed or after == "unknown":
            return
        if check.finding is None or after != before:
            check.finding = Finding(after, self._date(), check.state.reason)
            slow = before == "down" and any(asker.slow_start_s for asker in check.askers)
            check.back_at = now if slow else None
            check.told = {}
        self._tell(check, check.askers, now)

    def _tell(self, check: Check, askers: Sequence[Asker], now: float, again: bool = False) -> None:
        """Tell how the backend is now, those with one weight together; `again`: only where the weight changed."""
        finding = check.finding
        if finding is None:
            return
        told = dict(check.told) if again else {}
        groups: dict[float | None, list[Asker]] = {}
        for asker in askers:
            weight, _next = self._weight(check, asker.slow_start_s, now)
            check.told[asker.slow_start_s] = weight
            if asker.slow_start_s not in told or told[asker.slow_start_s] != weight:
                groups.setdefault(weight, []).append(asker)
        for weight, group in groups.items():
            self._events.append(Event(tuple(asker.place for asker in group), finding, weight, group[0].name))
        self._ramps.pop(check, None)
        following = [self._weight(check, slow_start_s, now)[1] for slow_start_s in check.told]
        due = min((moment for moment in following if moment is not None), default=None)
        if due is not None:
            self._ramps[check] = due

    def _weight(self, check: Check, slow_start_s: float, now: float) -> tuple[float | None, float | None]:
        """The share of its weight that a backend is to get, None for all of it, and when that is another one."""
        weight = check.state.weight
        if check.back_at is None or not slow_start_s:
            return weight, None
        share, after_s = state.ramp(now - check.back_at, slow_start_s)
        if share is None or after_s is None:
            return weight, None
        return share if weight is None else weight * share, check.back_at + after_s
