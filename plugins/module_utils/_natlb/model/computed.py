# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an object computes once, when it is first asked for it."""

from __future__ import annotations

from typing import Any, Callable, Generic, TypeVar, overload

T = TypeVar("T")


class computed(Generic[T]):  # noqa: N801 (used as `property` is)
    """`functools.cached_property` without the lock, which before Python 3.12 takes longer than what is computed here.
    There are ten thousands of these objects, and they never change: two threads at worst compute the same twice."""

    def __init__(self, function: Callable[[Any], T]) -> None:
        self._function, self._name, self.__doc__ = function, function.__name__, function.__doc__

    @overload
    def __get__(self, instance: None, owner: Any = None) -> computed[T]:
        """Of a class: itself, as of a property."""

    @overload
    def __get__(self, instance: object, owner: Any = None) -> T:
        """Of an object."""

    def __get__(self, instance: Any, owner: Any = None) -> computed[T] | T:
        if instance is None:
            return self
        found = vars(instance)[self._name] = self._function(instance)
        return found
