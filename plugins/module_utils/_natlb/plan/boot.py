# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that a run leaves: what it declared, and what puts the same rules back at the next boot.

The rules are kept as they were rendered and validated, not as the kernel lists them. `boot` loads them before the
network is up; `boot-uplinks` adds routes, which need their interfaces, once it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ..firewalls import forward
from ..host import store
from ..host.store import Content
from ..model.engine import Engine
from ..ruleset.sections import Ruleset, Section
from . import follower
from .request import Request, state_text

#: Every name that any engine may leave in /etc/natlb.
NAMES = (store.STATE, "boot", "boot-uplinks", "ruleset.nft", "ruleset.iptables", "ruleset.ip6tables", *forward.FILES)
_HEAD = "#!/bin/sh\n# Written by natlb.netfilter, as its last successful run; changes here are undone.\nset -eu\n"


def files(engine: Engine, path: forward.ForwardPath, request: Request, rendered: Ruleset) -> dict[Path, Content]:
    """Text and mode of each file that is to be there."""
    if request.config.empty:
        return {}
    paths = request.paths
    state = {(paths.etc if request.persist else paths.run) / store.STATE: (state_text(request, engine.name), 0o600)}
    if not request.persist:
        return state
    texts, lines = engine.boot(rendered, str(paths.etc))
    more, opening = path.boot(str(paths.etc))
    texts, lines = {**texts, **more}, [*lines, *opening]
    found = {**state, **{paths.etc / name: (text, 0o600) for name, text in texts.items()}}
    found[paths.etc / "boot"] = (_HEAD + "".join(f"{line}\n" for line in lines), 0o700)
    uplinks = follower.script(request.config, paths.etc / "boot-uplinks", paths.run)
    if uplinks:
        found[paths.etc / "boot-uplinks"] = (uplinks, 0o700)
    return found


def sections(contents: Mapping[Path, Content]) -> Ruleset:
    """Files as they show up in a diff: only that they differ. What a declaration changes, `summary` tells."""
    found: Ruleset = {}
    for path, (text, mode) in contents.items():
        digest = hashlib.sha256(text.encode()).hexdigest()
        found["", "", "file", str(path)] = Section((f"mode {mode:04o}",), (f"sha256 {digest}",))
    return found


def record(contents: Mapping[Path, Content]) -> str | None:
    """The kept request among these files."""
    return next((text for path, (text, _mode) in contents.items() if path.name == store.STATE), None)
