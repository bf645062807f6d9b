# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core. This file runs before the rest is imported, and on a Python that is too old for the rest."""

from __future__ import annotations

import json
import sys

#: Of Python, on the hosts.
OLDEST = (3, 9)

if sys.version_info < OLDEST:
    _said = (
        "this collection needs Python {}.{} on the host, and {} is {}.{} (install a newer one, and set "
        "ansible_python_interpreter to its path)"
    )
    # As a module would say it: Ansible shows no more than that something went wrong where an import fails.
    sys.stdout.write(
        json.dumps({"failed": True, "msg": _said.format(*OLDEST, sys.executable, *sys.version_info[:2])}) + "\n"
    )
    raise SystemExit(1)
