# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Warnings of several hosts, none of which hides another one's."""

from __future__ import annotations

import re
from typing import Any


def name_host(result: dict[str, Any], host: str) -> None:
    """Put the host's name in front of each warning in a module's result that does not have it.

    Ansible shows the same words once in a run, and so the warning of the first host alone.
    """
    if result.get("warnings"):
        result["warnings"] = [_named(_text(warning), host) for warning in result["warnings"]]


def _named(text: str, host: str) -> str:
    return text if not host or re.search(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])", text) else f"{host}: {text}"


def _text(warning: Any) -> str:
    """A warning is text, or from ansible-core 2.19 on an object that holds an event."""
    return warning if isinstance(warning, str) else str(getattr(getattr(warning, "event", None), "msg", warning))
