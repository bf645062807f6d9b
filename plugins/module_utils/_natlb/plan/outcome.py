# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The outcome of a run."""

from __future__ import annotations

from dataclasses import dataclass

from ..model.choices import EngineName
from ..ruleset.transaction import Kind


@dataclass
class Outcome:
    """`diff` is unified; `transaction` is none, delta, replace or remove; `sysctls` are the kernel settings that the
    declaration needs, by name with slashes."""

    changed: bool
    diff: str
    engine: EngineName
    transaction: Kind
    services: int
    sysctls: dict[str, str]
    warnings: list[str]
    #: What `rollback.confirm` takes, where the change is undone unless it is confirmed.
    token: str = ""
