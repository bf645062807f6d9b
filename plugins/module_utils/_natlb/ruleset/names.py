# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that are derived from their content."""

from __future__ import annotations

import base64
import hashlib

HASH_CHARACTERS = 10


def digest(text: str) -> str:
    """50 bits of a hash as ten letters and digits."""
    return base64.b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:HASH_CHARACTERS]
