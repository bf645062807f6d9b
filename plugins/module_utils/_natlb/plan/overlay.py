# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overrides and health of this host, applied to the declaration of a run.

    overrides.json   /etc/natlb, or /run/natlb with `persist: false`     what operators said; a run only ends entries
    health.json      /run/natlb                                          what health checks found since the boot
    multiples.json   /run/natlb                                          how least_connections levels new connections
    effective.json   with state.json, among the files that boot          what both made of the declaration in a run

After a boot there is no health.json yet. The rules that boot are those of the last run, so what that run knew of the
health is kept with them, in effective.json: until somebody has checked again, a dead backend stays out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..host import date, store
from ..host.boot_set import CURRENT
from ..host.observation import Call, digest
from ..host.staging import Entry
from ..host.store import Content, Paths
from ..model import local_state, outdated, words
from ..model.effective import (
    EffectiveBackend,
    Finding,
    Findings,
    Overrides,
    Place,
    deviations,
    effective,
    quorums,
)
from ..model.entities import Config, Service
from ..model.least_connections import Multiples, levelled
from ..model.local_state import Parsed
from ..model.quorum_memory import is_whole, remembering
from ..model.slots import MAX_SLOTS
from .request import Request

_MACHINE_ID = "/etc/machine-id"
_MODE = 0o600
DEVIATIONS = "effective"


@dataclass(frozen=True)
class Overlay:
    """What holds beside the declaration. `config` is the effective configuration, which the rules that boot are made
    from."""

    config: Config
    overrides: Overrides = field(default_factory=dict)
    findings: Findings = field(default_factory=dict)
    #: What follows for the live rules alone: what boots has no connections yet.
    multiples: Multiples = field(default_factory=dict)
    #: What a run keeps of it with the rules, by the name of the file, and the files that others write.
    record: Mapping[str, Content] = field(default_factory=dict)
    entries: Mapping[Path, Content] = field(default_factory=dict)
    #: What is to become of the file of the health checks, whoever confirms the run.
    repaired: Mapping[Path, Content | None] = field(default_factory=dict)
    #: What holds until something changes, and what is said of this run alone.
    warnings: Collection[str] = ()
    passing: Collection[str] = ()

    @cached_property
    def live(self) -> Config:
        """The configuration that the live rules are made from."""
        return levelled(self.config, self.multiples)


class Record(NamedTuple):
    """What is kept of a run: the request, and what overrides and health made of it. None where nothing is."""

    request: str | None
    effective: str | None


def known(paths: Paths) -> Iterator[Path]:
    """The files that may be there beside the set that boots. That of the health checks is theirs."""
    for folder in (paths.etc, paths.run):
        yield folder / store.OVERRIDES
        yield folder / f"{store.OVERRIDES}{store.DAMAGED_SUFFIX}"
    yield paths.run / store.EFFECTIVE


def wanted(request: Request, laid: Overlay, live: Mapping[Path, Entry]) -> dict[Path, Entry]:
    """Which of them are to be there: of those that were set aside the last one."""
    damaged = {folder / f"{store.OVERRIDES}{store.DAMAGED_SUFFIX}" for folder in (request.paths.etc, request.paths.run)}
    return {**{path: entry for path, entry in live.items() if path in damaged}, **laid.entries}


def repair_health_file(laid: Overlay) -> None:
    """Put the file of the health checks right."""
    for path, content in laid.repaired.items():
        if content is None:
            store.remove(path)
        else:
            store.write_text(path, *content)


def will_be_read(laid: Overlay) -> dict[Call, str]:
    """What readers of that file tell afterwards."""
    return {
        ("host.store.read_text", (str(path),)): digest(content and content[0])
        for path, content in laid.repaired.items()
    }


def read(request: Request, state: Mapping[str, Any] | None = None) -> Overlay:
    """Read the files, end what the declaration ends, and lay the rest over it.

    `state` is what the last run has kept; where it is not given, it is read if it is needed.
    """
    laid = _read(request, state)
    if not any(service.method == "least_connections" for service in request.config.services):
        return laid
    # One that is damaged is written anew by the next look at the connections, and says nothing that counts until then.
    text = store.kept_text(request.paths, request.paths.run / store.MULTIPLES)
    return replace(laid, multiples=local_state.parse_multiples(text, identity()).entries)


def _read(request: Request, state: Mapping[str, Any] | None) -> Overlay:
    paths = request.paths
    home, other = (paths.etc, paths.run) if request.persist else (paths.run, paths.etc)
    said = _first(paths, home / store.OVERRIDES, other / store.OVERRIDES)
    last = _first(paths, paths.etc / CURRENT / store.EFFECTIVE, paths.run / store.EFFECTIVE)
    now = _first(paths, paths.run / store.HEALTH)
    has_quorum = any(service.quorum for service in request.config.services)
    if request.config.empty or ((said.text, last.text, now.text) == (None, None, None) and not has_quorum):
        return Overlay(request.config)
    host = identity()
    overrides = local_state.parse_overrides(said.text, host)
    before, found = (local_state.parse_findings(file.text, host) for file in (last, now))
    findings = _newest(before.entries, found.entries, now.text is None or bool(found.fault and not found.entries))
    former = _former(request.paths, state, {place.address for place in (*overrides.entries, *findings)})
    kept, ended = outdated.lasting_overrides(overrides.entries, request.config, former)
    lasting = outdated.lasting_findings(findings, request.config, former)
    holding = remembering(request.config.services, kept, lasting, date.utc())
    standing = list(deviations(request.config, kept, holding))
    entries = _overrides_file(said, overrides, kept, home, host)
    repaired = _health_file(now, found, holding, host) if now.text is not None or holding is not lasting else {}
    told = ((said, overrides.fault), (last, before.fault), (now, found.fault))
    passing = [f"{file.path}: {fault}; {_REMEDY}" for file, fault in told if fault]
    config = effective(request.config, kept, holding)
    record = _record(standing, holding, host)
    warnings = list(_warnings(standing, holding))
    return Overlay(config, kept, holding, {}, record, entries, repaired, warnings, [*passing, *ended])


def _newest(older: Findings, newer: Findings, is_lost: bool) -> Findings:
    """What the newer findings do not say, or nobody can read, is taken from the older ones: that is better than to
    believe that all are well. A service that is not named as below its quorum any more is above it again."""
    return {**{place: item for place, item in older.items() if is_lost or not is_whole(place)}, **newer}


_REMEDY = f"a run rewrites it, and keeps a file of operators or of health checks as …{store.DAMAGED_SUFFIX}"


@dataclass(frozen=True)
class _File:
    path: Path
    text: str | None


def _first(paths: Paths, *candidates: Path) -> _File:
    """The first of them that is there."""
    for path in candidates:
        text = store.kept_text(paths, path)
        if text is not None:
            return _File(path, text)
    return _File(candidates[0], None)


def identity() -> str:
    """What tells this host from others: a digest of its machine-id, which is not to be shown (machine-id(5))."""
    text = (store.read_text(_MACHINE_ID) or "").strip()
    return hashlib.blake2b(text.encode(), digest_size=8, person=b"natlb").hexdigest() if text else ""


def _former(paths: Paths, state: Mapping[str, Any] | None, addresses: set[str]) -> outdated.Former:
    """State and weight that the last run has declared for backends at these addresses."""
    if not addresses:
        return None
    services = (store.read_state(paths) if state is None else state).get("services")
    if not isinstance(services, list):
        return None
    found: dict[Place, tuple[Any, Any]] = {}
    for service in services:
        for backend in words.backends_as_given(service.get("backends")) if isinstance(service, Mapping) else ():
            if backend["address"] in addresses:
                port = backend["port"]
                place = Place(str(service.get("name")), backend["address"], port if isinstance(port, int) else None)
                found[place] = backend.get("state"), backend.get("weight")
    return found


def _overrides_file(said: _File, read: Parsed[Any], kept: Overrides, home: Path, host: str) -> dict[Path, Content]:
    found: dict[Path, Content] = {}
    if read.fault and said.text is not None:
        found[home / f"{store.OVERRIDES}{store.DAMAGED_SUFFIX}"] = (said.text, _MODE)
    if kept:
        same = said.text is not None and not read.fault and kept == read.entries
        found[home / store.OVERRIDES] = (str(said.text) if same else local_state.dump_overrides(kept, host), _MODE)
    return found


def _record(
    standing: Iterable[tuple[Service, list[EffectiveBackend]]], findings: Findings, host: str
) -> dict[str, Content]:
    """What makes the rules other ones than the declaration alone would, for the next boot and the next diff."""
    items = [
        {
            **Place(service.name, item.declared.address, item.declared.port)._asdict(),
            "state": item.effective.state,
            "weight": item.effective.weight,
            "because": item.because,
            "why": item.why(),
        }
        for service, found in standing
        for item in found
        if item.effective != item.declared
    ]
    ill = {place: finding for place, finding in findings.items() if finding.state != "up"}
    if not items and not ill:
        return {}
    text = local_state.dump(host, {DEVIATIONS: items, local_state.HEALTH: local_state.finding_items(ill)})
    return {store.EFFECTIVE: (text, _MODE)}


def _health_file(now: _File, read: Parsed[Finding], holding: Findings, host: str) -> dict[Path, Content | None]:
    if not read.fault and holding == read.entries:
        return {}
    found: dict[Path, Content | None] = {}
    if read.fault and now.text is not None:
        found[now.path.with_name(f"{store.HEALTH}{store.DAMAGED_SUFFIX}")] = (now.text, _MODE)
    found[now.path] = (local_state.dump_findings(holding, host), _MODE) if holding else None
    return found


def _warnings(standing: Iterable[tuple[Service, list[EffectiveBackend]]], findings: Findings) -> Iterable[str]:
    for service, found in standing:
        heavy = [item.declared.name for item in found if item.unweighted]
        if heavy:
            yield (
                f"service {service.name}: the override of the weight of {', '.join(heavy[:3])} is ignored: the "
                f"service would need more than {MAX_SLOTS} slots (use one that has a common divisor with the others)"
            )
        if any(item.because == "fail_open" for item in found):
            yield f"service {service.name}: all of its backends are down, and fail_open keeps them in rotation"
        below = [str(count) for count in quorums(service, found, findings) if count.is_below]
        if below:
            yield f"service {service.name}: it is below min_healthy: {'; '.join(below)}"
