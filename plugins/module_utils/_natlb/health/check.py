# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One question, and where its answer stands."""

from __future__ import annotations

from typing import Callable

from ..model.effective import Finding
from .attempt import Attempt
from .question import Asker, Question
from .state import BackendState

#: How long a backend that clients wait for in vain may take to connect; what a service does with the connection has all
#: of its time. A SYN that is lost is sent again after a second, so a longer wait says no more.
SUSPECT_TIMEOUT_S = 0.5


class Check:
    """What `Checker` knows of one question."""

    __slots__ = (
        "askers",
        "attempt",
        "back_at",
        "due",
        "finding",
        "graced",
        "has_answered",
        "identity",
        "last",
        "number",
        "question",
        "result",
        "started",
        "state",
        "suspect_at",
        "told",
        "took_s",
    )

    def __init__(self, question: Question, kept: Finding | None) -> None:
        self.question, self.identity = question, question.identity
        self.askers: list[Asker] = []
        self.attempt: Attempt | None = None
        self.finding = kept
        self.state = BackendState(kept.state if kept is not None else "unknown")
        #: When it is to begin, to be looked at, or late.
        self.due = 0.0
        self.started = 0.0
        self.number = 0
        #: Whether the one that is under way got its one more look.
        self.graced = False
        self.result = self.last = ""
        self.took_s: float | None = None
        self.suspect_at = float("-inf")
        #: Of a suspect: whether it has answered anybody since.
        self.has_answered: Callable[[], bool] = lambda: False
        #: Since when the backend is back after it was down; None while no service slows its start.
        self.back_at: float | None = None
        #: The share of the weight that was told last, by slow start.
        self.told: dict[float, float | None] = {}

    @property
    def deadline(self) -> float:
        hurried = self.state.is_suspected and self.attempt is not None and self.attempt.is_connecting
        timeout_s = self.question.health.timeout_s
        return self.started + (min(timeout_s, SUSPECT_TIMEOUT_S) if hurried else timeout_s)
