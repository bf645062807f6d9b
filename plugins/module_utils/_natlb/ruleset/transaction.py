# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be loaded to get from one ruleset to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["none", "delta", "replace", "remove"]


@dataclass(frozen=True)
class Transaction:
    """What will be loaded: `kind` is none, delta, replace or remove; `texts` go to the engine's program by unit."""

    kind: Kind
    texts: dict[str, str]
