"""Every variable that a role has or makes carries the collection's prefix, so that it meets nobody else's."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(
    path for folder in ("defaults", "vars", "tasks", "handlers") for path in ROOT.glob(f"roles/*/{folder}/*.yml")
)
PREFIXES = ("natlb_", "__natlb_")


def variables_of_tasks(tasks: Any) -> Iterator[str]:
    for task in tasks or []:
        yield from [task["register"]] if "register" in task else []
        yield from task.get("vars", {})
        yield from (name for name in task.get("ansible.builtin.set_fact", {}) if name != "cacheable")
        loop_variable = task.get("loop_control", {}).get("loop_var")
        yield from [loop_variable] if loop_variable else []
        for section in ("block", "rescue", "always"):
            yield from variables_of_tasks(task.get(section))


def variables_of(path: pathlib.Path) -> Iterator[str]:
    content = yaml.safe_load(path.read_text())
    return iter(content or {}) if path.parent.name in ("defaults", "vars") else variables_of_tasks(content)


def test_there_are_roles_to_look_at() -> None:
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_variables_have_the_prefix(path: pathlib.Path) -> None:
    assert [name for name in variables_of(path) if not name.startswith(PREFIXES)] == []
