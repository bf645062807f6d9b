# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What all tests may import, and who comes first where pytest is told to use several processes."""

from __future__ import annotations

import contextlib
import gc
import os
import pathlib
import sys
from collections.abc import Generator

import pytest

TESTS = pathlib.Path(__file__).resolve().parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

# Hooks of a module of their own.
from progress import pytest_configure  # noqa: E402, F401


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests, each of many objects that stay: looking through them for garbage, again and again, would be
    half of the time of finding them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """With several processes the scenarios, one after the other, are the longest way: the others make room for them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    first = item.path.relative_to(TESTS).parts[0] == "molecule"
    # Only root may become more important again; a process that may not stays as it is.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0 if first else 10)
