# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `info` tells of services that is of no use every day: whether they take over, and their marks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .columns import wrapped


def lines(info: Mapping[str, Any]) -> Iterator[str]:
    """For people, below the table."""
    for service in info["services"]:
        why = service["takeover_reason"]
        yield from wrapped(f"{service['name']}: takeover {f'off: {why}' if why else 'on'}", 0, 2)
        marks = [str(service["mark"])] if service["mark"] else []
        marks += [f"{item['name']} {item['mark']}" for item in service["backends"] if item["mark"]]
        if marks:
            yield from wrapped(f"{service['name']}: mark {', '.join(marks)}", 0, 2)
