# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the kernel for the normal form of a change, once by what the last run knew and once anew."""

from __future__ import annotations

from typing import Any

from _natlb.model.services import parse_config
from _natlb.model.surroundings import Surroundings
from _natlb.plan import engines
from _natlb.ruleset import normal_form


def both_ways(
    engine_name: str, variant: str | None, first: Any, second: Any, networks: list[str]
) -> tuple[list[str], int, int]:
    """The sections of `second` whose form differs when `first` was known; and the characters that the kernel was given
    in both cases."""
    engine, _warnings = engines.choose(engine_name, variant)
    known = normal_form.ask(engine, engine.render(parse_config(first), Surroundings(networks)), {}).known
    assert known is not None
    rendered = engine.render(parse_config(second), Surroundings(networks))
    questions = [normal_form.question(engine, rendered, what) for what in ({engine.title: known}, {})]
    little, whole = (question.answer() for question in questions)
    assert little.known == whole.known
    characters = [sum(len(part.text) for part in question.parts) for question in questions]
    return _differing(little, whole), characters[0], characters[1]


def in_parts(engine_name: str, variant: str | None, declared: Any, networks: list[str]) -> tuple[list[str], int]:
    """The sections whose form is another one where the kernel is asked about all in one piece; and how many times more
    than that it was asked."""
    engine, _warnings = engines.choose(engine_name, variant)
    rendered = engine.render(parse_config(declared), Surroundings(networks))
    question = normal_form.question(engine, rendered, {})
    found = question.answer()
    pieces = [normal_form.Part(list(rendered), unit, text) for unit, text in engine.texts(rendered).items()]
    whole = normal_form.Question(engine, rendered, {}, pieces, {}).answer()
    return _differing(found, whole), len(question.parts) - len(pieces)


def _differing(one: normal_form.NormalForm, other: normal_form.NormalForm) -> list[str]:
    return [
        " ".join(key)
        for key in one.ruleset.keys() | other.ruleset.keys() | one.rendered.keys()
        if key not in other.ruleset or one.ruleset.get(key) != other.ruleset[key]
    ]
