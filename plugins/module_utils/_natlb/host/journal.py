# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What units have written to the journal of systemd, for messages about those that failed."""

from __future__ import annotations

import contextlib

from ..errors import HostError
from . import processes

LINES = 5


def last_log_lines(unit: str) -> str:
    """The last lines of a unit that failed, on one line: its own, or, where it could not begin, what systemd says.

    Empty for a unit that has not failed, and where nothing is to be found out: the message that it is for must come in
    any case.
    """
    state = _asked("systemctl", "show", "--property=ActiveState,InvocationID", "--", unit)
    values = dict(line.split("=", 1) for line in state.splitlines() if "=" in line)
    if values.get("ActiveState") in ("active", "inactive"):
        return ""
    _asked("journalctl", "--sync")
    read = ("journalctl", "--no-pager", "--quiet", "--boot", "--output=cat", f"--lines={LINES}")
    # By its invocation these are the words of its processes in this start alone.
    own = _asked(*read, f"_SYSTEMD_INVOCATION_ID={values['InvocationID']}") if values.get("InvocationID") else ""
    text = own or _asked(*read, f"--unit={unit}")
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return f"{unit}: {' / '.join(lines) or 'nothing in its journal'}"


def _asked(program: str, *arguments: str) -> str:
    with contextlib.suppress(HostError):
        return processes.run([processes.require(program, "systemd"), *arguments])
    return ""
