# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A browser for all tests of a file, and the pages that it looks at."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
# What makes the checkout importable.
_SPEC = importlib.util.spec_from_file_location("unit_conftest", HERE.parent / "unit" / "conftest.py")
assert _SPEC
assert _SPEC.loader
_SPEC.loader.exec_module(importlib.util.module_from_spec(_SPEC))

from chromium import Browser  # noqa: E402


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def browser(started: Browser) -> Browser:
    """On a desktop, by day, whatever the test before did."""
    started.scripts(allowed=True)
    started.look(1280)
    return started
