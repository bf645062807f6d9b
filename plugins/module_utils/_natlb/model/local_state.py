# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overrides and findings of health checks, as the JSON of their files. Pure.

A file may be damaged, of another version of natlb, or of another host. So each entry is read on its own. A file of a
later version is read with the meaning of this version: to ignore it would put backends back into rotation that somebody
has taken out. A file of another host is ignored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Generic, TypeVar

from ..errors import ConfigError
from . import values
from .effective import FOUND, Finding, Findings, Override, Overrides, Place, joined
from .entities import MAX_WEIGHT, STATES
from .least_connections import LEAST, MOST, Multiples

#: Of each of the files. It grows where a later reader would understand the same words differently.
FORMAT = 1
#: Longer words are cut: they stand in a line of a table.
LONGEST_WORDS = 300
OVERRIDES, HEALTH, MULTIPLES = "overrides", "health", "multiples"

T = TypeVar("T")


@dataclass(frozen=True)
class Parsed(Generic[T]):
    """The content of a file, and what is wrong with the file; empty if nothing is."""

    entries: Mapping[Place, T] = field(default_factory=dict)
    fault: str = ""


def parse_overrides(text: str | None, host: str) -> Parsed[Override]:
    """`host` is the identity of this one; empty where it has none."""
    return _parse(text, OVERRIDES, host, _override)


def parse_findings(text: str | None, host: str) -> Parsed[Finding]:
    """The same for what health checks found."""
    return _parse(text, HEALTH, host, _finding)


def parse_multiples(text: str | None, host: str) -> Parsed[float]:
    """The same for how new connections are levelled (`least_connections.py`)."""
    return _parse(text, MULTIPLES, host, _multiple)


def _parse(text: str | None, key: str, host: str, read: Callable[[Mapping[str, Any]], T]) -> Parsed[T]:
    if text is None:
        return Parsed()
    try:
        kept = json.loads(text)
    except (ValueError, RecursionError):
        return Parsed(fault="it is damaged: it is not JSON")
    if not isinstance(kept, Mapping):
        return Parsed(fault="it is damaged: it is not a mapping")
    theirs = kept.get("host")
    if host and isinstance(theirs, str) and theirs and theirs != host:
        return Parsed(fault="it was written on another host, so it says nothing about this one")
    items = kept.get(key)
    listed = items if isinstance(items, list) else []
    entries: dict[Place, T] = {}
    lost = 0 if isinstance(items, list) else 1
    for item in listed:
        try:
            place = _place(item)
            entries[place] = read(item)
        except ConfigError:
            lost += 1
    return Parsed(entries, _fault(kept.get("format"), lost))


def _fault(version: Any, lost: int) -> str:
    if isinstance(version, int) and version > FORMAT:
        return (
            f"a later version of natlb wrote it (format {version}, this one reads {FORMAT}); its readable parts apply"
        )
    if lost or not isinstance(version, int) or isinstance(version, bool) or version < 1:
        return "it is damaged; its readable parts apply"
    return ""


def _place(item: Any) -> Place:
    if not isinstance(item, Mapping):
        raise ConfigError("", "is no mapping", "")
    service, port = item.get("service"), item.get("port")
    return Place(
        None if service is None else values.name(service, "service"),
        str(values.address(item.get("address"), "address")),
        None if port is None else values.port(port, "port"),
    )


def _override(item: Mapping[str, Any]) -> Override:
    parts = item.get("parts")
    with contextlib.suppress(ConfigError):
        if isinstance(parts, list) and parts:
            return joined([_part(part) for part in parts])
    # It says the same as a whole, and for all reasons at once.
    return _part(item)


def _part(item: Any) -> Override:
    if not isinstance(item, Mapping):
        raise ConfigError("", "is no mapping", "")
    state, weight = item.get("state"), item.get("weight")
    if state is None and weight is None:
        raise ConfigError("state", "is missing", "")
    return Override(
        None if state is None else values.choice(state, "state", STATES),
        None if weight is None else values.integer(weight, "weight", 0, MAX_WEIGHT),
        *_words(item),
    )


def _finding(item: Mapping[str, Any]) -> Finding:
    share = item.get("share", 1.0)
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise ConfigError("share", "is not a part of a weight", "0 to 1")
    return Finding(values.choice(item.get("state"), "state", FOUND), *_words(item), float(share))


def read_finding(item: Mapping[str, Any]) -> tuple[Place, Finding]:
    """One entry. Raises `ConfigError`."""
    return _place(item), _finding(item)


def _multiple(item: Mapping[str, Any]) -> float:
    multiple = item.get("multiple")
    if not isinstance(multiple, (int, float)) or not LEAST <= multiple <= MOST:
        raise ConfigError("multiple", "is not one of a fair share", f"{LEAST} to {MOST}")
    return float(multiple)


def _words(item: Mapping[str, Any]) -> tuple[str, str]:
    """Since when and why, on one line and printable, since both are shown."""
    return tuple(line(item.get(key)) for key in ("since", "reason"))  # type: ignore[return-value]


def line(value: Any) -> str:
    """Words of a user as they are kept: on one line, printable, and no longer than `LONGEST_WORDS`."""
    if not value or not isinstance(value, str):
        return ""
    words = " ".join(value.split())
    return "".join(letter if letter.isprintable() else "?" for letter in words[:LONGEST_WORDS])


def dump_overrides(overrides: Overrides, host: str) -> str:
    """The text of the file, with a line for each override."""
    items = [
        {**place._asdict(), **said(item), **({"parts": [said(part) for part in item.parts]} if item.parts else {})}
        for place, item in overrides.items()
    ]
    return dump(host, {OVERRIDES: items})


def said(item: Override) -> dict[str, Any]:
    """An override as one entry, whatever it is joined from."""
    return {"state": item.state, "weight": item.weight, "since": item.since, "reason": item.reason}


def dump_findings(findings: Findings, host: str) -> str:
    """The same for what health checks found."""
    return dump(host, {HEALTH: finding_items(findings)})


def dump_multiples(found: Multiples, host: str) -> str:
    """The same for how new connections are levelled."""
    items = [{**place._asdict(), "multiple": multiple} for place, multiple in found.items()]
    return dump(host, {MULTIPLES: items})


def finding_items(findings: Findings) -> list[dict[str, Any]]:
    return [{**place._asdict(), **vars(item)} for place, item in findings.items()]


def dump(host: str, lists: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """A file of these lists, with its format and its host."""
    parts = [f'"format": {FORMAT}', f'"host": {json.dumps(host)}']
    for key, items in lists.items():
        lines = ",\n".join(json.dumps(item) for item in items)
        parts.append(f'"{key}": [\n{lines}\n]' if lines else f'"{key}": []')
    return "{\n" + ",\n".join(parts) + "\n}\n"
