# Copyright (c) the natlb contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the checkout importable without installing it.

The core is `_natlb`, as on a target; what imports by the collection's full name finds it too, whatever folder the
checkout lies in.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from hypothesis import settings

CHECKOUT = Path(__file__).resolve().parents[2]

sys.path[:0] = [str(CHECKOUT / "plugins" / "module_utils"), str(CHECKOUT / "tests")]


def _package(name: str, path: str) -> None:
    module = types.ModuleType(name)
    module.__path__ = [path] if path else []
    sys.modules.setdefault(name, module)


if "ansible_collections" not in sys.modules:
    _package("ansible_collections", "")
    _package("ansible_collections.natlb", "")
    _package("ansible_collections.natlb.netfilter", str(CHECKOUT))

# How long an example takes says how busy the machine is.
import boot_lab  # noqa: E402

settings.register_profile("natlb", deadline=None)
settings.load_profile("natlb")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> boot_lab.Host:
    """A host in a folder, for what a run leaves for the next boot."""
    return boot_lab.boot_host(tmp_path, monkeypatch)
