# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The date, as files and messages of this host have it."""

from __future__ import annotations

import time


def utc() -> str:
    """Now, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
