# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose connection tracking takes no segment from the middle of a connection. Pure."""

from __future__ import annotations

from collections.abc import Collection

from ..model.takeover import LOOSE

#: How many services the message names.
_NAMED = 3


def warning(names: Collection[str]) -> str:
    """What becomes of connections of these services that another balancer has established."""
    some = sorted(names)
    more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
    return (
        f"service {', '.join(some[:_NAMED])}{more}: {LOOSE} is 0 here, so established connections of another balancer "
        "do not go on here (set it to 1, or declare takeover: false)"
    )
