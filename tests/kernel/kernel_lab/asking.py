# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the kernel for the normal form of a change, once by what the last run knew and once anew."""

from __future__ import annotations

from typing import Any

from _natlb import engines, normal_form
from _natlb.model import parse_config


def both_ways(
    engine_name: str, variant: str | None, first: Any, second: Any, networks: list[str]
) -> tuple[list[str], int, int]:
    """The sections of `second` whose form differs when `first` was known; and the characters that the kernel was given
    in both cases."""
    engine, _warnings = engines.choose(engine_name, variant)
    asked: list[int] = []
    normal = engine.normal

    def counted(unit: str, text: str) -> str | None:
        asked.append(len(text))
        return normal(unit, text)

    known = normal_form.ask(engine, engine.render(parse_config(first), networks), {}).known
    assert known is not None
    rendered = engine.render(parse_config(second), networks)
    engine.normal = counted  # type: ignore[method-assign]
    little = normal_form.ask(engine, rendered, {engine.title: known})
    characters = sum(asked)
    asked.clear()
    whole = normal_form.ask(engine, rendered, {})
    assert little.known == whole.known
    differing = [
        " ".join(key)
        for key in little.ruleset.keys() | whole.ruleset.keys() | rendered.keys()
        if key not in whole.ruleset or little.ruleset.get(key) != whole.ruleset[key]
    ]
    return differing, characters, sum(asked)
