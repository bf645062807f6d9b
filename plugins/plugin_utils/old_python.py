# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose Python is too old even to say so."""

from __future__ import annotations

from typing import Any

#: Python 3.6 cannot read the files of ansible-core itself; 3.7 is refused by ansible-core.
_SIGNS = ("future feature annotations is not defined", "requires a minimum of Python version")
NEEDED = "this collection needs Python 3.9 on the host (install it, and set ansible_python_interpreter to its path)"


def explain(result: dict[str, Any]) -> None:
    """Put the reason and the remedy in the place of the traceback of a module that could not start."""
    said = " ".join(str(result.get(key, "")) for key in ("msg", "module_stderr", "module_stdout", "exception"))
    if result.get("failed") and any(sign in said for sign in _SIGNS):
        for key in ("module_stderr", "module_stdout", "exception"):
            result.pop(key, None)
        result["msg"] = NEEDED
