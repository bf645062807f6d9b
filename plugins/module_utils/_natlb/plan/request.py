# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The request of a run, and its form in state.json for later readers: the next run, `balancer_info`, a reload.

The file may be of another version of natlb, or damaged. So each field is read on its own, and an unreadable one counts
as not given: a run must always be able to rewrite the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Literal, TypeVar

from ..errors import NatlbError
from ..host import store
from ..host.store import Paths
from ..model.choices import ENGINES, FIREWALL, TRANSIT, EngineName, Firewall, RequestedEngine, Transit, Variant
from ..model.entities import EMPTY, Config, dump
from ..model.metrics import Metrics, dump_metrics, parse_metrics
from ..model.network_lists import named, readable_lists
from ..model.services import Known, parse_config
from ..model.tracking import Tracking, dump_tracking, parse_tracking
from .forwarding import Before, dump_before, parse_before

if TYPE_CHECKING:
    from .last_declaration import LastDeclaration

_Choice = TypeVar("_Choice", bound=str)

#: Of the file. It grows where a later reader would understand the same words differently, not with each new field.
FORMAT = 3
#: What the formats before that one called two of the options.
_FORMER_NAMES = {"firewall": "forward", "transit": "forward_others"}
_UNREAD = "{}: not all of it can be read; the next run of the module balancer rewrites it"
_LATER = (
    "{}: a later version of natlb wrote it (format {}, this one reads {}); its readable parts apply, and the next run "
    "of the module balancer rewrites it"
)
_UNCOMPARED = (
    "{}: damaged, so the last declaration is not known: this run cannot say what it removes or which overrides it "
    "undoes; it rewrites the file"
)


@dataclass(frozen=True)
class Request:
    """What a run is asked for, checked and complete.

    All of it is kept but how a change is made: `rollback_after_s`, and the options `assume_installed` and
    `allow_management_port`, which belong to one run and its connection. That says nothing about what the host is to be.
    """

    config: Config
    engine: RequestedEngine
    variant: Variant | None
    forwarding: bool
    persist: bool
    paths: Paths
    rollback_after_s: int = 0
    tracking: Tracking = field(default_factory=Tracking)
    firewall: Firewall = "warn"
    #: The engine that holds the rules, where they are only looked at: `auto` might take another one by now.
    held_by: RequestedEngine | Literal[""] = ""
    #: Whether programs that are missing will have been installed by the time of the run that is planned.
    expected: bool = False
    transit: Transit = "drop"
    #: Whether the agent is to run also where no service asks for checks.
    agent: bool = False
    #: How the agent publishes metrics.
    metrics: Metrics = field(default_factory=Metrics)
    #: Gives the text of the program that the agent is. None leaves the one that is there.
    program: Callable[[], str] | None = None
    #: Not asked for, but found by the first run and kept with the rest.
    before: Before = field(default_factory=Before)
    #: What the last run has made of its declaration, where that spares work.
    last: LastDeclaration | None = field(default=None, compare=False, repr=False)


def state_text(request: Request, engine: EngineName) -> str:
    """A request as JSON with a line per service, so that a diff of it reads like a diff of the declaration.

    `engine` is the one that carries it out; what was asked for may be `auto`.
    """
    declared = dump(replace(request.config, services=()))
    lines = [f'"format": {FORMAT}', f'"engine": {json.dumps(engine)}']
    lines += [f'"{key}": {json.dumps(value)}' for key, value in _options(request).items()]
    lines.append(f'"mark_mask": {declared["mark_mask"]}')
    lists = [f"{json.dumps(name)}: {json.dumps(networks)}" for name, networks in declared["networks"].items()]
    lines.append('"networks": {{\n{}\n}}'.format(",\n".join(lists)) if lists else '"networks": {}')
    services = [service.line for service in request.config.services]
    for key, items in (("services", services), ("egress", list(map(json.dumps, declared["egress"])))):
        lines.append('"{}": [\n{}\n]'.format(key, ",\n".join(items)) if items else f'"{key}": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _options(request: Request) -> dict[str, Any]:
    """What is asked for beside services and egress, each under the name that a user types."""
    return {
        "requested_engine": request.engine,
        "forwarding": request.forwarding,
        "agent": request.agent,
        "metrics": dump_metrics(request.metrics),
        "firewall": request.firewall,
        "conntrack": dump_tracking(request.tracking),
        "transit": request.transit,
        "before": dump_before(request.before),
    }


def restored(paths: Paths, variant: Variant | None = None) -> tuple[Request, list[str]]:
    """The request of the last run, and warnings about what of it cannot be read.

    With nothing kept it asks for nothing.
    """
    state = store.read_state(paths)
    kept = store.state_path(paths)
    config = declared(state)
    lost, tracking, published = False, Tracking(), Metrics()
    try:
        tracking = parse_tracking(state.get("conntrack"))
        published = parse_metrics(_as_typed(state.get("metrics")), EMPTY)
    except NatlbError:
        lost = True
    request = Request(
        config=config,
        engine=_one_of(state.get("requested_engine"), ENGINES, "auto"),
        variant=variant,
        forwarding=state.get("forwarding") is not False,
        agent=state.get("agent") is True,
        metrics=published,
        persist=kept == paths.etc / store.STATE,
        paths=paths,
        firewall=_one_of(_renamed(state, "firewall"), FIREWALL, "warn"),
        transit=_one_of(_renamed(state, "transit"), TRANSIT, "drop"),
        held_by=_one_of(state.get("engine"), ENGINES, "auto"),
        tracking=tracking,
    )
    counts = [len(config.services), len(config.egress)]
    whole = not lost and (kept is None or counts == [_count(state.get(key)) for key in ("services", "egress")])
    return request, _later(state, kept) or ([] if whole else [_UNREAD.format(kept)])


def _later(state: Mapping[str, Any], kept: Path | None) -> list[str]:
    version = state.get("format")
    return [_LATER.format(kept, version, FORMAT)] if isinstance(version, int) and version > FORMAT else []


def complaints(paths: Paths, state: Mapping[str, Any]) -> list[str]:
    """What a run cannot read of what the last one has kept (`state`), and so cannot compare with. No service is parsed
    for it."""
    kept = store.state_path(paths)
    whole = kept is None or all(isinstance(state.get(key), list) for key in ("services", "egress"))
    return _later(state, kept) or ([] if whole else [_UNCOMPARED.format(kept)])


def declared(state: Mapping[str, Any]) -> Config:
    """The services and egress rules of a kept state: all of them, or those that this version can read."""
    services, egress = (list(map(_as_typed, _listed(state.get(key)))) for key in ("services", "egress"))
    mask, lists = state.get("mark_mask"), state.get("networks")
    try:
        return parse_config(services, egress, mask, networks=lists)
    except NatlbError:
        pass
    known = Known({}, lists=readable_lists(lists))
    good = [item for item in services if _readable([item], [], None, known)]
    ways = [item for item in egress if _readable([], [item], mask, known)]
    for attempt in ((good, ways, mask), (good, [], None), ([], ways, mask)):
        if _readable(*attempt, known):
            return parse_config(*attempt, known)
    return EMPTY


def _as_typed(item: Any) -> Any:
    """Without the keys that were left out, which the file has with null or an empty list, at any depth."""
    if isinstance(item, list):
        return list(map(_as_typed, item))
    if not isinstance(item, Mapping):
        return item
    return {
        key: _as_typed(value) for key, value in item.items() if value is not None and (value != [] or key == "backends")
    }


def _readable(services: Any, egress: Any, mask: Any, known: Known) -> bool:
    try:
        parse_config(services, egress, mask, known)
    except NatlbError:
        return False
    return True


def previous(paths: Paths, state: Mapping[str, Any]) -> tuple[Config, Before]:
    """Of what the last run declared (`state`), that which it leaves behind outside the rules: UDP flows and uplinks;
    and what the host was before the first run.

    Ten thousand services take half a second to parse, so the others are left out.
    """
    services = [item for item in _listed(state.get("services")) if _speaks_udp(item)]
    kept = state.get("before")
    # The copy counts only where state.json has lost it, and that file is seen to be another one then.
    before = parse_before(kept if isinstance(kept, Mapping) else store.read_cache(paths.run / store.BEFORE))
    lists = state.get("networks")
    used = {name: lists[name] for name in named(services) if name in lists} if isinstance(lists, Mapping) else None
    return declared({**state, "services": services, "networks": used}), replace(
        before, opened=_renamed(state, "transit") == "accept"
    )


def _renamed(state: Mapping[str, Any], option: str) -> Any:
    """The value of an option that a file of an earlier format has under another name."""
    return state.get(option, state.get(_FORMER_NAMES[option]))


def _speaks_udp(service: Any) -> bool:
    protocols = service.get("protocol") if isinstance(service, Mapping) else None
    return protocols == "udp" or (isinstance(protocols, list) and "udp" in protocols)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> int:
    """How many items a list has; -1 where it is none."""
    return len(value) if isinstance(value, list) else -1


def _one_of(value: Any, choices: Sequence[_Choice], otherwise: _Choice) -> _Choice:
    return next((each for each in choices if each == value), otherwise)
