# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wings of the core and their imports, as they really are. Run it to see the diagram of docs/architecture.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CORE = Path(__file__).resolve().parents[1] / "plugins" / "module_utils" / "_natlb"
#: Files of their own, which all wings import.
WORDS = ("errors", "packets")


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


def wing_of(path: Path) -> str:
    """The wing that a file is in, or its own name where it is in none."""
    return path.relative_to(CORE).with_suffix("").parts[0]


def arrows() -> dict[str, set[str]]:
    """The wings that each wing imports."""
    found: dict[str, set[str]] = {}
    for path in sorted(CORE.rglob("*.py")):
        if path.parent != CORE:
            wing = wing_of(path)
            found.setdefault(wing, set()).update(room.partition(".")[0] for room in imports(path))
    return {wing: others - {wing, *WORDS} for wing, others in found.items()}


def diagram() -> str:
    """The arrows in the notation of Mermaid, without those that follow from others; `WORDS` are imported by all."""
    found = arrows()
    lines = ["graph BT"]
    for wing in sorted(found):
        reached = {far for near in found[wing] for far in _reached(near, found)}
        lines += [f"    {wing} --> {other}" for other in sorted(found[wing] - reached)]
        if not found[wing]:
            lines.append(f"    {wing}")
    return "\n".join(lines) + "\n"


def _reached(wing: str, found: dict[str, set[str]]) -> set[str]:
    """Every wing that this one leads to."""
    seen: set[str] = set()
    pending = [*found.get(wing, ())]
    while pending:
        other = pending.pop()
        if other not in seen:
            seen.add(other)
            pending += found.get(other, ())
    return seen


if __name__ == "__main__":
    print(diagram(), end="")
