# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the docs that a test makes. Tests compare; with NATLB_WRITE_DOCS=1 they write what differs."""

from __future__ import annotations

import os
from pathlib import Path

WRITE = "NATLB_WRITE_DOCS"


def check(path: Path, text: str) -> None:
    """The whole file is made."""
    if os.environ.get(WRITE):
        path.write_text(text)
    assert path.read_text() == text, f"{path.name} is not what is made now; run this test with {WRITE}=1"


def check_block(path: Path, block: str, text: str) -> None:
    """What is between the page's marks `<!-- block -->` and `<!-- end of block -->` is made."""
    before, first, rest = path.read_text().partition(f"<!-- {block} -->\n")
    _old, last, after = rest.partition(f"<!-- end of {block} -->")
    assert last, f"{path.name} has no {first}"
    check(path, f"{before}{first}{text}{last}{after}")
