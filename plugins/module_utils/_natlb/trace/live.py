# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""`natlb trace --live`: follows a real connection of the client, by the rules that its packets meet and by what
connection tracking makes of it."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..host import nft_trace, tracked
from ..host.tracked import Tracked
from ..model.values import endpoint
from .question import Question

#: How often tracked connections are looked at, and how long an attempt may stay without an answer.
_LOOK_S, UNANSWERED_S = 0.1, 3.0
#: Without a word of the monitor for so long, nothing more is to come.
_QUIET_S = 0.5
_LINE = re.compile(r"trace id (\S+) (\S+) (\S+) (\S+) (rule|verdict|policy) ?(.*)$")
_VERDICT = re.compile(r"^(.*?) ?\(verdict ([^)]*)\)$")
_PASSING = ("continue",)


class Met(NamedTuple):
    """What one packet met: a rule, the end of a chain, or a policy, and the verdict."""

    packet: str
    place: str
    rule: str
    verdict: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule or 'end of the chain'} -> {self.verdict}"


def parse(line: str) -> Met | None:
    """A line of `nft monitor trace`; None where it says nothing that decides. Pure."""
    found = _LINE.match(line.strip())
    if found is None or found[3] == nft_trace.TABLE:
        return None
    place, kind, rest = f"{found[2]} {found[3]} {found[4]}", found[5], found[6]
    if kind == "rule":
        rule = _VERDICT.match(rest)
        return Met(found[1], place, rule[1] if rule else rest, rule[2] if rule else "continue")
    if rest in _PASSING:
        return None
    return Met(found[1], place, "policy" if kind == "policy" else "", rest)


class Outcome(NamedTuple):
    """How it ended. `line` is for people."""

    reached: bool
    line: str


def follow(question: Question, seconds: float) -> Iterator[str | Outcome]:
    """Lines as things happen, and the outcome last: the first connection that is answered, one that stays without an
    answer, or none within so many seconds. Raises `HostError`."""
    match = f"{question.family} saddr {question.client} {question.family} daddr {question.target} "
    match += f"{question.protocol} dport {question.port}"
    if question.client_port is not None:
        match += f" {question.protocol} sport {question.client_port}"
    with nft_trace.followed(match, question.family) as monitor:
        give_up = time.monotonic() + seconds
        known = {item.original for item in _connections(question)}
        watched = _Watched(question, known)
        last: Met | None = None
        yield f"waiting up to {seconds:.0f} s for a connection {question}"
        outcome = None
        while outcome is None and time.monotonic() < give_up:
            for met in _heard(monitor, _LOOK_S):
                last = met
                yield str(met)
            told, outcome = watched.poll(time.monotonic())
            yield from told
        # The monitor tells of packets a little later than they come.
        while heard := list(_heard(monitor, _QUIET_S)):
            last = heard[-1]
            yield from map(str, heard)
    if outcome is None and last is None and not watched.began:
        outcome = Outcome(False, "no packet of it has come by: it was lost before it reached this host, or not sent")
    yield outcome or Outcome(False, f"it was not answered; its last packet came to {last or 'a backend'}")


class _Watched:
    """What connection tracking makes of connections that were not there before."""

    def __init__(self, question: Question, known: set[bytes]) -> None:
        self._question, self._known = question, known
        #: Those without an answer, and since when.
        self.began: dict[bytes, float] = {}

    def poll(self, now: float) -> tuple[list[str], Outcome | None]:
        told: list[str] = []
        for item in _connections(self._question):
            if item.original in self._known:
                continue
            if item.answered:
                return told, Outcome(True, f"answered by {_backend(item)}")
            if item.original not in self.began:
                self.began[item.original] = now
                told.append(f"tracked, and sent to {_backend(item)}")
            elif now > self.began[item.original] + UNANSWERED_S:
                return told, Outcome(False, f"{_backend(item)} did not answer within {UNANSWERED_S:.0f} s")
        return told, None


def _heard(monitor: nft_trace.Monitor, within_s: float) -> Iterator[Met]:
    select.select([monitor.output], [], [], within_s)
    return filter(None, map(parse, monitor.lines()))


def _connections(question: Question) -> list[Tracked]:
    return [
        item
        for item in tracked.of_client(question.family, question.protocol, question.client)
        if item.target == (question.target, question.port)
    ]


def _backend(item: Tracked) -> str:
    return endpoint(*item.backend) if item.translated else f"{endpoint(*item.target)}, which was not translated"
