"""The table and the verdict of `make demo`."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(path: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


demo = load(ROOT / "tools" / "demo.py")


def test_the_longest_bar_fills_the_width_and_the_others_are_in_proportion() -> None:
    lines = list(demo.report({"web1": 200, "web2": 100}, {"web1": 2, "web2": 1}))
    assert [line.count("█") for line in lines] == [0, demo.BAR_WIDTH, demo.BAR_WIDTH // 2, 0]
    assert lines[1].split()[:4] == ["web1", "2", "200", "200"]
    assert lines[-1].split() == ["total", "3", "300", "300"]


def test_backends_that_never_answered_and_backends_nobody_declared_are_shown() -> None:
    lines = list(demo.report({"stranger": 3}, {"web1": 1}))
    assert [line.split()[:4] for line in lines[1:3]] == [["web1", "1", "3", "0"], ["stranger", "0", "0", "3"]]


def test_no_answers_at_all_still_make_a_table() -> None:
    assert len(list(demo.report({}, {"web1": 1}))) == 3


@pytest.mark.parametrize(
    ("answers", "errors", "words"),
    [
        ({"web1": 200, "web2": 100}, 0, ["exactly its share", "no connection was lost"]),
        ({"web1": 199, "web2": 101}, 0, ["web1, web2 did not get the declared share"]),
        ({"web1": 200, "web2": 100}, 7, ["7 connections failed"]),
        ({"web1": 300}, 2, ["web1, web2", "2 connections failed"]),
    ],
)
def test_verdict(answers: dict[str, int], errors: int, words: list[str]) -> None:
    sentence = demo.verdict(answers, {"web1": 2, "web2": 1}, errors)
    assert all(word in sentence for word in words), sentence
