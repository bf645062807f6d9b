# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the program begins. `natlb ready` is asked each second or two, so it does without the parser of command lines
and without whatever else other commands import. All other command lines go to `main.py`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import NatlbError
from ..host.store import DEFAULT_PATHS, Paths
from ..status.readiness import Facts, Readiness, readiness

if TYPE_CHECKING:
    # Ansible packs what a module imports, wherever that stands; the program needs these.
    from ..model.choices import Variant
    from . import main as _others  # noqa: F401

_COMMAND, _JSON = "ready", "--json"


def main() -> int:
    """Carry out the command line, and return the exit code."""
    words = sys.argv[1:]
    root = words[1] if words[:1] == ["--root"] and len(words) > 1 else None
    rest = words if root is None else words[2:]
    if rest in ([_COMMAND], [_COMMAND, _JSON]) and os.geteuid() == 0:
        return ready(_JSON in rest, paths(root))
    from . import main as others  # noqa: PLC0415

    return others.main()


def paths(root: str | None) -> Paths:
    """Where things are kept. Tests have them elsewhere."""
    return DEFAULT_PATHS if root is None else Paths(Path(root, "etc"), Path(root, "run"))


def ready(as_json: bool, where: Paths, variant: Variant | None = None) -> int:
    """Say whether this host can serve, and return the exit code."""

    def of_files() -> Facts | None:
        # Imported only where nothing else knows: it takes longer than all the rest.
        from ..status import serving  # noqa: PLC0415

        return serving.of_files(where, variant)

    try:
        found = readiness(where, of_files)
    except NatlbError as error:
        found = Readiness([str(error)], [])
    if as_json:
        sys.stdout.write(json.dumps(found.dump(), indent=2) + "\n")
    else:
        sys.stderr.writelines(f"natlb: not ready: {reason}\n" for reason in found.reasons)
        sys.stdout.writelines(f"{line}\n" for line in [*([] if found.reasons else [_COMMAND]), *found.notes])
    return int(bool(found.reasons))
