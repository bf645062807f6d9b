# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a declaration to its end: an error is recorded, and reading continues with the next value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, TypeVar

from ..errors import ConfigError, ConfigErrors
from . import keys_elsewhere, values
from .keys_elsewhere import Key

T = TypeVar("T")

NO_VALUE = "has no value"
_REQUIRED = "it is required"
_EMPTY_REMEDY = "leave the key out, or write a value; a template may have come out empty"


class Reading:
    """All errors of the input, in the order in which they were found."""

    def __init__(self) -> None:
        self.errors: list[ConfigError] = []

    def add(self, path: str, problem: str, remedy: str) -> None:
        self.errors.append(ConfigError(path, problem, remedy))

    def done(self) -> None:
        """Raise `ConfigErrors` where something was wrong."""
        if self.errors:
            raise ConfigErrors(self.errors)

    def read(self, function: Callable[..., T], *arguments: Any, otherwise: T) -> T:
        """The result of the function, or `otherwise` if it raises an error."""
        try:
            return function(*arguments)
        except ConfigError as error:
            self.errors.append(error)
        except ConfigErrors as error:
            self.errors.extend(error.errors)
        return otherwise

    def each(self, function: Callable[..., T], items: Iterable[tuple[str, Any]]) -> list[T]:
        """The results of the function for each (path, value), without those that raise an error."""
        found: list[T] = []
        for path, value in items:
            try:
                found.append(function(value, path))
            except ConfigError as error:
                self.errors.append(error)
            except ConfigErrors as error:
                self.errors.extend(error.errors)
        return found

    def mapping(
        self,
        value: Any,
        path: str,
        known: Sequence[str],
        required: Sequence[str] = (),
        elsewhere: Sequence[Key] = (),
    ) -> dict[str, Any]:
        """The known keys that are given; `elsewhere` is what others call such keys. A null is an error for each of
        them: for many keys, leaving them out allows more than any value does, and a template that gives null must not
        have that effect."""
        if not isinstance(value, Mapping):
            # A service has so many keys that nobody would read them all.
            keys = f"{', '.join(required)} and others" if required else ", ".join(known)
            self.add(path, f"{values.shown(value)} is not a mapping", f"write a mapping with the keys {keys}")
            return {}
        for key in value:
            if key not in known:
                at = f"{path}.{values.shown(key).strip(chr(39))}"
                self.add(at, "no such key", meant(str(key), known, elsewhere))
            elif value[key] is None:
                self.add(f"{path}.{key}", NO_VALUE, _REQUIRED if key in required else _EMPTY_REMEDY)
        for key in required:
            if key not in value:
                self.add(f"{path}.{key}", "is missing", _REQUIRED)
        return {key: item for key, item in value.items() if item is not None}


def meant(key: str, known: Sequence[str], elsewhere: Sequence[Key] = ()) -> str:
    """What to say of a key that is none: the one that is meant, or else all."""
    told = keys_elsewhere.answer(key, known, elsewhere)
    if told is not None:
        return told
    near = difflib.get_close_matches(key.strip().lower().replace("-", "_"), known, n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
