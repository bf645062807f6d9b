# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wings of the core: imports run one way, so that the room of a change is found at once."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
_SPEC = importlib.util.spec_from_file_location("wings", ROOT / "tools" / "wings.py")
assert _SPEC
assert _SPEC.loader
wings = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(wings)
CORE = wings.CORE
#: Of lines, in the core.
LONGEST_FILE, LONGEST_FUNCTION = 400, 50
#: Files of their own, which every wing may import.
_WORDS = {"errors", "packets"}
_BASE = {*_WORDS, "ruleset", "host"}
_ENGINES = {"nftables", "iptables"}
_BELOW_PLAN = {*_BASE, "model", *_ENGINES, "firewalls", "warnings"}
#: Which wings a wing may import, besides itself. `model.values` is one room of a wing.
MAY_IMPORT = {
    "errors": set[str](),
    "packets": set[str](),
    "ruleset": _WORDS,
    "host": _WORDS,
    "model": _BASE,
    "nftables": {*_BASE, "model"},
    "iptables": {*_BASE, "model"},
    "firewalls": {*_BASE, "model", *_ENGINES},
    "warnings": {*_BASE, "model", *_ENGINES, "firewalls"},
    "plan": _BELOW_PLAN,
    "status": {*_BELOW_PLAN, "plan"},
    "trace": {*_BELOW_PLAN, "plan"},
    "health": {*_BASE, "model", "plan", "status"},
    "cli": {*_BASE, "model", "plan", "status", "trace", "health"},
    "probe": {*_WORDS, "model.values"},
}


def astray() -> list[str]:
    """Every import against the direction, by file and room."""
    found = []
    for path in sorted(CORE.rglob("*.py")):
        wing = wings.wing_of(path)
        if wing == "__init__":
            continue
        allowed = MAY_IMPORT[wing]
        found += [
            f"{path.relative_to(CORE)} imports {room}"
            for room in wings.imports(path)
            if room.partition(".")[0] not in {*allowed, wing} and room not in allowed
        ]
    return found


def test_imports_run_one_way() -> None:
    assert astray() == []


def test_every_wing_is_known_and_says_what_it_is_for() -> None:
    found = {path.parent.name: path for path in CORE.glob("*/__init__.py")}
    assert {*found, *_WORDS} == set(MAY_IMPORT)
    assert [name for name, path in found.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_unit_tests_stand_where_their_wing_does() -> None:
    """`controller` has the plugins and what serves them, `house` what is true of the whole checkout."""
    here = ROOT / "tests" / "unit"
    assert sorted(path.name for path in here.glob("test_*.py")) == []
    assert {path.parent.name for path in here.glob("*/test_*.py")} == {*MAY_IMPORT, "controller", "house"} - _WORDS


def test_programs_are_run_where_their_output_is_noted() -> None:
    """Whatever a plan reads has to be marked (`host/observation.py`), and so it is read in `host` or by an engine's
    programs."""
    may = {"nftables/program.py", "iptables/program.py", "nftables/engine.py", "plan/rollback.py"}
    # No plan depends on what it prints.
    may |= {"plan/waiting.py"}
    calls = {"run", "attempt"}
    found = set()
    for path in CORE.rglob("*.py"):
        name = str(path.relative_to(CORE))
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            owner = called.value if isinstance(called, ast.Attribute) else None
            if isinstance(owner, ast.Name) and owner.id == "processes" and called.attr in calls:
                found.add(name)
    assert {name for name in found if not name.startswith("host/")} <= may
    assert {name for name in found if name.startswith("host/")}


def test_nobody_asks_which_engine_it_is() -> None:
    """What differs between engines is a word of their protocol (`model/engine.py`). Only whoever chooses one for this
    host compares names, of what was asked for."""
    may = ("nftables/", "iptables/", "plan/engines.py", "plan/expected.py")
    found = []
    for path in sorted(CORE.rglob("*.py")):
        name = str(path.relative_to(CORE))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and not name.startswith(may):
                words = {item.value for item in ast.walk(node) if isinstance(item, ast.Constant)}
                found += [f"{name}:{node.lineno}"] * bool(words & _ENGINES)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                found += [f"{name}:{node.lineno}"] * ("Engine" in ast.unparse(node.args[1]))
    assert found == []


def test_the_reader_of_imports_sees_them() -> None:
    from_below = {"errors", "host"}
    rooms = list(wings.imports(CORE / "plan" / "apply.py"))
    assert "host.store" in rooms
    assert "errors" in rooms
    assert {room.partition(".")[0] for room in rooms} > from_below


def test_the_diagram_is_of_the_real_imports() -> None:
    """`tools/wings.py` prints it."""
    assert f"```mermaid\n{wings.diagram()}```\n" in (ROOT / "docs" / "architecture.md").read_text()


def test_no_file_and_no_function_is_too_long() -> None:
    found = []
    for path in sorted(CORE.rglob("*.py")):
        text = path.read_text()
        found += [f"{path.relative_to(CORE)}: {len(text.splitlines())} lines"] * (len(text.splitlines()) > LONGEST_FILE)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno:
                lines = node.end_lineno - node.lineno + 1
                found += [f"{path.relative_to(CORE)}: {node.name} has {lines} lines"] * (lines > LONGEST_FUNCTION)
    assert found == []
