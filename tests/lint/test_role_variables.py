"""Every variable that a role has or makes carries the collection's prefix, so that it meets nobody else's."""

from __future__ import annotations

import pathlib
import re
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


# -- the list of them ------------------------------------------------------------------------------------------------

LIST = ROOT / "plugins" / "plugin_utils" / "variables.py"


def lists() -> dict[str, frozenset[str]]:
    """The lists of plugins/plugin_utils/variables.py, which imports nothing of Ansible."""
    found: dict[str, Any] = {}
    exec(compile(LIST.read_text(), str(LIST), "exec"), found)
    return {name: found[name] for name in ("ROLES", "PLAYBOOKS", "HOSTS", "INTERNAL")}


def options() -> set[str]:
    specs = [yaml.safe_load(path.read_text()) for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    return {name for spec in specs for name in spec["argument_specs"]["main"]["options"]}


def words(pattern: str) -> set[str]:
    """All names of variables that are read or made there, also in comments and messages."""
    text = "\n".join(path.read_text() for path in ROOT.glob(pattern))
    return {word for word in re.findall(r"(?<![\w./-])natlb_[a-z0-9_]+", text) if not word.endswith("_")}


def test_options_of_roles_are_listed() -> None:
    assert lists()["ROLES"] == options()


def test_what_roles_make_is_listed() -> None:
    made = {name for path in FILES for name in variables_of(path)} - options()
    assert made <= lists()["INTERNAL"]


def test_what_playbooks_read_is_listed() -> None:
    known = frozenset.union(*lists().values())
    assert sorted(words("playbooks/**/*.yml") - known) == []


def test_nothing_is_listed_that_is_not_there() -> None:
    there = options() | words("playbooks/**/*.yml") | words("roles/*/*/*") | words("plugins/filter/*.py")
    assert sorted(frozenset.union(*lists().values()) - there - lists()["HOSTS"]) == []


def test_the_lists_have_nothing_in_common() -> None:
    assert sum(map(len, lists().values())) == len(frozenset.union(*lists().values()))
