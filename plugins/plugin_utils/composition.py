# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declarations that are written in several variables, such as `natlb_services_web` and `natlb_services_db`. Pure.

The lists are put together in the order of the names of the variables, `natlb_services` itself first. So all
balancers of one inventory have one list, whoever wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.errors import ConfigError
from ansible_collections.natlb.netfilter.plugins.module_utils._natlb.model import values as parse

from .variables import LISTS, PREFIX


class Composed(NamedTuple):
    """A list of several variables, and where each of its items is written."""

    items: list[Any]
    places: list[str]


def names(option: str, given: Iterable[str]) -> list[str]:
    """The variables among these that the list is put together of, in their order: of `services` these are
    `natlb_services` and all that begin with `natlb_services_`."""
    whole = f"{PREFIX}{option}"
    return sorted(name for name in given if name == whole or (name.startswith(f"{whole}_") and name != f"{whole}_"))


def compose(option: str, values: Mapping[str, Any]) -> Composed:
    """The items of all variables. One that holds no list has none: `problems` tells of it."""
    found = Composed([], [])
    for name in names(option, values):
        if isinstance(values[name], (list, tuple)):
            found.items.extend(values[name])
            found.places.extend(f"{name}[{number}]" for number in range(len(values[name])))
    return found


def all_places(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Where the items of each list are written, by the name of the option."""
    return {option: compose(option, values).places for option in LISTS}


def problems(option: str, raw: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the variables themselves. `raw` has their templates, `values` what these give."""
    found = []
    parts = [name for name in names(option, values) if name != f"{PREFIX}{option}"]
    for name in names(option, values):
        template = raw.get(name) if isinstance(raw.get(name), str) else ""
        twice = [part for part in parts if part != name and re.search(rf"\b{part}\b", str(template))]
        if twice:
            remedy = f"leave it out of the template, or rename it: all that begins with {PREFIX}{option}_ is a part"
            found.append(f"{name}: its template names {twice[0]}, which is added to the list anyway ({remedy})")
        elif values[name] is not None:
            found += _no_list(name, values[name])
            found += _emptied(name, values[name], str(template)) if name in parts else []
    return found


def _no_list(name: str, value: Any) -> list[str]:
    try:
        parse.sequence(value, name)
    except ConfigError as error:
        return [str(error)]
    return []


def _emptied(name: str, value: Any, template: str) -> list[str]:
    """A part that comes out empty takes away all that its team has."""
    if template and not value and isinstance(value, (list, tuple)):
        found = f"the template {template!r} gives an empty list, which would remove everything that it declared"
        return [f"{name}: {found} (write {name}: [] if that is meant)"]
    return []
