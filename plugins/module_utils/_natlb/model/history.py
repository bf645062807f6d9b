# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What health checks have found of backends over time: lines of a file, one for each change. Pure.

Lines are appended, since thousands of backends may fail at once and the rules must not wait for a file to be written
anew. So a line may be cut short by a crash, and each is read on its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from ..errors import ConfigError
from .effective import Finding, Findings, Place
from .local_state import FORMAT, read_finding

#: Of each backend, so many of the last changes are kept, and of all together the last ones that fit into so many bytes.
MOST_CHANGES, MOST_BYTES = 10, 1 << 20

History = Mapping[Place, Sequence[Finding]]


def changes(before: Findings, found: Findings) -> dict[Place, Finding]:
    """Those of another state than before. A backend that was never asked counts as well."""
    return {
        place: finding
        for place, finding in found.items()
        if finding.state != (before[place].state if place in before else "up")
    }


def head(host: str) -> str:
    """The first line of a file. `host` is the identity of this one."""
    return json.dumps({"format": FORMAT, "host": host}) + "\n"


def lines(found: Findings) -> str:
    """A line for each change."""
    return "".join(
        json.dumps({**place._asdict(), "state": item.state, "since": item.since, "reason": item.reason}) + "\n"
        for place, item in found.items()
    )


def parse(text: str | None, host: str) -> History:
    """The last changes of each backend, the oldest first. A file of another host says nothing about this one."""
    first, *rest = (text or "").splitlines() or [""]
    theirs = _mapping(first).get("host")
    if theirs is None or (host and theirs and theirs != host):
        return {}
    found: dict[Place, list[Finding]] = {}
    for line in rest:
        try:
            place, finding = read_finding(_mapping(line))
        except ConfigError:
            continue
        found.setdefault(place, []).append(finding)
    return {place: items[-MOST_CHANGES:] for place, items in found.items()}


def bounded(text: str | None, host: str) -> str:
    """The file with no more than is kept: half of the bytes that it may have, so that this is rarely done."""
    kept = parse(text, host)
    every = [(item.since, at, place, item) for place, items in kept.items() for at, item in enumerate(items)]
    every.sort(key=lambda entry: entry[:2])
    size, found = 0, []
    for _since, _at, place, item in reversed(every):
        line = lines({place: item})
        size += len(line)
        if size > MOST_BYTES // 2:
            break
        found.append(line)
    return head(host) + "".join(reversed(found))


def of(history: History, place: Place, now: Finding | None) -> list[Finding]:
    """The last changes of a backend, up to what is found of it now; empty where it is not checked."""
    if now is None:
        return []
    found = list(history.get(place, ()))
    # A file may be younger than the finding, or have lost its lines. A backend was up before its first change.
    if now.since and now.state != (found[-1].state if found else "up"):
        found.append(Finding(now.state, now.since, now.reason))
    return found[-MOST_CHANGES:]


def _mapping(line: str) -> Mapping[str, object]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
