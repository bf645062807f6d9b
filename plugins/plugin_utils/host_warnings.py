# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings of several hosts, none of which hides another one's."""

from __future__ import annotations

from typing import Any


def add(result: dict[str, Any], host: str) -> None:
    """Make warnings of the `remarks` in a module's result, each with the host's name in front.

    Ansible shows the same words once in a run, and so the warning of the first host alone. A module must not warn by
    itself: from ansible-core 2.21 on such a warning is on its way to the user before the action sees the result.
    """
    remarks = result.get("remarks")
    if remarks:
        result["warnings"] = [*result.get("warnings", []), *(f"{host}: {remark}" for remark in remarks)]
