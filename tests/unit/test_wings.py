# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wings of the core: imports run one way, so that the room of a change is found at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CORE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "_natlb"
_BASE = {"errors", "ruleset", "host"}
_ENGINES = {"nftables", "iptables"}
_BELOW_PLAN = {*_BASE, "model", *_ENGINES, "firewalls", "warnings"}
#: Which wings a wing may import, besides itself. `model.values` is one room of a wing.
MAY_IMPORT = {
    "errors": set[str](),
    "ruleset": {"errors"},
    "host": {"errors"},
    "model": _BASE,
    "nftables": {*_BASE, "model"},
    "iptables": {*_BASE, "model"},
    "firewalls": {*_BASE, "model", *_ENGINES},
    "warnings": {*_BASE, "model", *_ENGINES, "firewalls"},
    "plan": _BELOW_PLAN,
    "status": {*_BELOW_PLAN, "plan"},
    "probe": {"errors", "model.values"},
}


def imports(path: Path) -> Iterator[str]:
    """The rooms of the core that a file imports, as `wing.room`."""
    package = list(path.relative_to(CORE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1]
        base += node.module.split(".") if node.module else []
        if CORE.joinpath(*base).is_dir():
            yield from (".".join([*base, name.name]) for name in node.names)
        else:
            yield ".".join(base)


def astray(core: Path = CORE) -> list[str]:
    """Every import against the direction, by file and room."""
    found = []
    for path in sorted(core.rglob("*.py")):
        wing = path.relative_to(core).with_suffix("").parts[0]
        if wing == "__init__":
            continue
        allowed = MAY_IMPORT[wing]
        found += [
            f"{path.relative_to(core)} imports {room}"
            for room in imports(path)
            if room.partition(".")[0] not in {*allowed, wing} and room not in allowed
        ]
    return found


def test_imports_run_one_way() -> None:
    assert astray() == []


def test_every_wing_is_known_and_says_what_it_is_for() -> None:
    wings = {path.parent.name: path for path in CORE.glob("*/__init__.py")}
    assert {*wings, "errors"} == set(MAY_IMPORT)
    assert [name for name, path in wings.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_the_reader_of_imports_sees_them() -> None:
    from_below = {"errors", "host"}
    rooms = list(imports(CORE / "plan" / "apply.py"))
    assert "host.store" in rooms
    assert "errors" in rooms
    assert {room.partition(".")[0] for room in rooms} > from_below
