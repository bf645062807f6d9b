# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text format of Prometheus: names, types and samples. Pure.

See "Exposition formats" in the documentation of Prometheus; names and units as its "Metric and label naming" has them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, Union

Kind = Literal["gauge", "counter"]
Labels = Mapping[str, str]
Value = Union[int, float]
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Exposition:
    """Metrics as they are added."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def add(self, name: str, kind: Kind, help_text: str, samples: Iterable[tuple[str, Value]]) -> None:
        """Samples of one metric, each with its labels as `labels` writes them. Without a sample there is no metric."""
        lines = [f"{name}{labelled} {_number(value)}\n" for labelled, value in samples]
        if lines:
            self._parts += [f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n", *lines]

    def one(self, name: str, kind: Kind, help_text: str, value: Value | None, **own: str) -> None:
        """A metric with a single sample; none where the value is not known."""
        self.add(name, kind, help_text, [] if value is None else [(labels(own), value)])

    def text(self) -> str:
        return "".join(self._parts)


def labels(own: Labels) -> str:
    """Labels as a sample has them; nothing where there are none."""
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in own.items()) + "}" if own else ""


def escaped(value: str) -> str:
    # Of a hundred thousand hardly one has anything to escape, and to look for it costs less.
    return value.translate(_ESCAPES) if "\\" in value or '"' in value or "\n" in value else value


def _number(value: Value) -> str:
    if isinstance(value, float) and not value.is_integer():
        return repr(value)
    return str(int(value))
