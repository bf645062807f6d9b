# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines for whoever looks at a run, beside its results."""

from __future__ import annotations

from ansible import constants
from ansible.utils.display import Display

#: Callbacks whose output is read by programs: it would not be what they read with lines of ours in it.
_FOR_PROGRAMS = ("json", "jsonl", "json_lines", "null", "ndjson")


def say(text: str, colour: str | None = None) -> None:
    """Ansible colours a terminal alone, and not where it is told not to."""
    if str(constants.DEFAULT_STDOUT_CALLBACK).rpartition(".")[2] not in _FOR_PROGRAMS:
        Display().display(text, color=colour)
