# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings of several hosts that do not hide each other."""

from __future__ import annotations

from typing import Any


def add(result: dict[str, Any], host: str) -> None:
    """Make warnings of the `remarks` in a module's result, each with the host's name in front.

    Ansible shows the same text once in a run, and so only the warning of the first host. A module must not warn by
    itself: from ansible-core 2.21 on, the user gets such a warning before the action sees the result.
    """
    remarks = result.get("remarks")
    if remarks:
        result["warnings"] = [*result.get("warnings", []), *(f"{host}: {remark}" for remark in remarks)]
