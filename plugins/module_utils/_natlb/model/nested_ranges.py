# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of ports within others."""

from __future__ import annotations

from collections.abc import Iterable

from .entities import Frontend


def nested(frontends: Iterable[Frontend]) -> dict[Frontend, list[Frontend]]:
    """By each frontend that has others within it those directly within it, by their ports. None cross."""
    found: dict[Frontend, list[Frontend]] = {}
    around: list[Frontend] = []
    for frontend in sorted(frontends, key=lambda item: (item.low, -item.high)):
        while around and around[-1].high < frontend.low:
            around.pop()
        if around:
            found.setdefault(around[-1], []).append(frontend)
        around.append(frontend)
    return found
