# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the last run has made of its declaration, so that this one makes anew only what differs.

Two steps of a run are pure and take long with many services: to read them, and to render their rules. The results of
the last run are on the host: its services in state.json, its rules in normal.json. This file keeps digests that tell
whether these are still true: of the code, of each service as it was given, and of both files. Where one differs, and in
doubt, everything is read and rendered, with the same result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..errors import HostError
from ..host import observation, store
from ..host.observation import digest
from ..host.store import Paths
from ..model import kept
from ..model.engine import Engine
from ..model.entities import Config, Service, dump
from ..model.services import Known
from ..model.surroundings import Surroundings
from ..ruleset import normal_form
from ..ruleset.normal_form import NormalForm
from ..ruleset.sections import Ruleset
from . import unchanged
from .known_services import KnownServices
from .unchanged import Asked

#: How the services begin in the kept request, which has a line for each of them (`request.state_text`).
_SERVICES = '"services": [\n'
#: From one changed service in so many on, all rules are rendered.
_MANY = 4


@dataclass(frozen=True)
class LastDeclaration:
    """`file` is the text of the kept request, and what is in it. `rules` is what `rules_key` said of its rules."""

    file: tuple[str, dict[str, Any]]
    known: Known
    rules: str


def read(paths: Paths, asked: Asked) -> LastDeclaration | None:
    """The last declaration, where this code has written it."""
    found = store.read_cache(paths.run / store.DECLARED)
    if not asked.services or found.get("code") != asked.code:
        return None
    for path in (paths.etc / store.STATE, paths.run / store.STATE):
        text = store.state_text(paths, path)
        if text is not None and digest(text) == found.get("state"):
            try:
                return _of(text, found, asked)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                return None
    return None


def _of(text: str, found: Mapping[str, Any], asked: Asked) -> LastDeclaration:
    state, given = json.loads(text), list(found["services"])
    items, lines = state["services"], text.partition(_SERVICES)[2].split("\n", len(given))
    places = {each: number for number, each in enumerate(given)}
    same = {number: places[each] for number, each in enumerate(asked.services) if each in places}
    lists = {name: tuple(networks) for name, networks in state["networks"].items()}

    def service(place: int) -> Service:
        return kept.service(items[place], lines[place].rstrip(","), lists)

    services = {number: service(place) for number, place in same.items()}
    count = len(asked.services)
    in_order = len(given) == count and all(number == place for number, place in same.items())
    former = {number: service(number) for number in range(count) if number not in same} if in_order else None
    known = Known(services, former, lists if found["lists"] == asked.lists else None)
    return LastDeclaration((text, state), known, str(found["rules"]))


def keep(paths: Paths, asked: Asked, state: str, rules: str) -> None:
    """Keep this one for the next run: `state` is the kept request, and `rules` what `rules_key` says."""
    given = {"code": asked.code, "services": asked.services, "lists": asked.lists}
    found = {**given, "state": digest(state), "rules": rules}
    try:
        store.write_text(paths.run / store.DECLARED, json.dumps(found))
    except HostError:
        # A full disk makes the next run read and render everything. It is no fault of this one, whose change is made.
        store.remove(paths.run / store.DECLARED)


# -- rules -----------------------------------------------------------------------------------------------------------


class KnownForms(NamedTuple):
    """What a run has left about the forms of its rules (`ruleset/normal_form.py`), and a digest of that file."""

    forms: dict[str, Any]
    digest: str


#: What is known where nothing is left.
NO_FORMS = KnownForms({}, "")


def known_forms(paths: Paths) -> KnownForms:
    """What the last run has left."""
    text = store.cached_text(paths.run / store.NORMAL)
    return KnownForms(store.mapping(text), digest(text))


def keep_forms(paths: Paths, known: KnownForms, normals: Iterable[NormalForm]) -> KnownForms:
    """Leave these forms for the next run, where they are not `known` already.

    Raises `HostError`, and leaves none then: the next run would take older forms for the rules that are loaded now.
    """
    path = paths.run / store.NORMAL
    try:
        forms = {normal.engine.title: normal.known_after_load() for normal in normals if normal.rendered}
        if not forms or forms == known.forms:
            return known
        text = json.dumps(forms)
        store.write_text(path, text)
    except HostError:
        # This works on a full disk as well.
        store.remove(path)
        raise
    return KnownForms(forms, digest(text))


def live(engine: Engine, paths: Paths, known: KnownForms) -> Ruleset:
    """The live rules: what the last run loaded, where nobody has committed any since; else as they are listed."""
    if not engine.shares_tables and unchanged.holds(paths):
        observation.note_generation()
        found = normal_form.known_rules(engine, known.forms)
        if found is not None:
            return found
    return engine.listed()


def rules_key(
    engine: Engine, declared: Config, config: Config, around: Surroundings, known: KnownForms, sections: int
) -> str:
    """What tells the rules that are kept from those of other declarations, but for the services. Empty where they are
    not to be built on: `config` is not as it was `declared`, or not each of the `sections` is kept."""
    entry = known.forms.get(engine.title)
    whole = entry is not None and len(entry["sections"]) == sections
    return _key(engine, config, around, known) if whole and config == declared else ""


def _key(engine: Engine, config: Config, around: Surroundings, known: KnownForms) -> str:
    return digest([engine.title, dump(replace(config, services=())), list(around), known.digest])


def rendered(
    last: LastDeclaration | None,
    engine: Engine,
    declared: Config,
    config: Config,
    around: Surroundings,
    known: KnownForms,
) -> Ruleset:
    """The rules of a configuration. Where it is as it was `declared`, and differs from the last one by states and
    weights of backends in some services only, those of the others are not rendered again."""
    found = None
    if last is not None and config == declared and last.rules == _key(engine, config, around, known):
        found = _from_the_last(last.known.former, engine, config, around, known)
    return engine.render(config, around) if found is None else found


def _from_the_last(
    changed: Mapping[int, Service] | None, engine: Engine, config: Config, around: Surroundings, known: KnownForms
) -> Ruleset | None:
    """The same from the rules of the last run, where that can be; `changed` are the services that were others then."""
    if changed is None or len(changed) * _MANY > len(config.services):
        return None
    former = list(config.services)
    for number, service in changed.items():
        former[number] = service
        if _without_states(service) != _without_states(config.services[number]):
            return None
    whole = normal_form.known_rules(engine, known.forms, rendered=True)
    if whole is None:
        return None
    services = KnownServices(engine, replace(config, services=tuple(former)), around, whole)
    step = services.step([config.services[number] for number in changed])
    if step is None:
        return None
    services.made(step)
    return services.rules


def _without_states(service: Service) -> Service:
    return replace(service, backends=tuple(replace(item, state="active", weight=1) for item in service.backends))
