# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of a balancer, as JSON for programs; `status/checks_table.py` shows it to people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..model.effective import Finding, Findings
from ..model.entities import Service
from .checks import Status
from .question import Asker, Question, questions


def of_agent(overview: Iterable[Status], now: float) -> list[dict[str, Any]]:
    """What the agent knows of its checks."""
    return [
        {
            **_asked(item.question, item.askers),
            **_found(item.finding),
            "against": item.against,
            "needed": item.needed,
            "flapping": item.damping > 1,
            "last": {
                "result": item.result or None,
                "reason": item.last,
                "took_s": None if item.took_s is None else round(item.took_s, 6),
                "began_s_ago": None if item.began is None else round(now - item.began, 3),
            },
            "next_in_s": None if item.due is None else round(max(0.0, item.due - now), 3),
        }
        for item in overview
    ]


def of_files(services: Iterable[Service], findings: Findings) -> list[dict[str, Any]]:
    """The same without the agent: what it would ask, and what it has found before."""
    unknown = {"result": None, "reason": "", "took_s": None, "began_s_ago": None}
    checked = [service for service in services if service.health is not None]
    return [
        {
            **_asked(question, askers),
            **_found(next((findings[asker.place] for asker in askers if asker.place in findings), None)),
            "against": None,
            "needed": None,
            "flapping": None,
            "last": unknown,
            "next_in_s": None,
        }
        for question, askers in questions(checked).items()
    ]


def _asked(question: Question, askers: Sequence[Asker]) -> dict[str, Any]:
    health = question.health
    return {
        "check": " ".join(_words(question)),
        "type": health.type,
        "address": question.address,
        "port": question.port,
        "interval_s": health.interval_s,
        "fast_interval_s": health.fast_interval_s,
        "timeout_s": health.timeout_s,
        "fall": health.fall,
        "rise": health.rise,
        "backends": [
            {"service": asker.place.service, "name": asker.name, "address": asker.address, "port": asker.place.port}
            for asker in askers
        ],
    }


def _words(question: Question) -> Iterator[str]:
    """The question, for people: `http 10.0.0.3:80/ready`."""
    health = question.health
    yield health.type
    if health.type in ("http", "https"):
        yield f"{question.target}{health.path}"
        if health.host:
            yield f"({health.host})"
        return
    yield question.target
    if health.type == "command":
        yield " ".join(health.argv)
    elif health.type == "dns":
        yield health.query or ""


def _found(finding: Finding | None) -> dict[str, Any]:
    if finding is None:
        return {"state": "unknown", "since": None, "reason": ""}
    return {"state": finding.state, "since": finding.since or None, "reason": finding.reason}
